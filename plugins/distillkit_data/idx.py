"""The IDX format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distillkit.errors import DistillkitError


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not.

    Raises:
        DistillkitError: it is not one, or it is cut short.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DistillkitError(f"{path}: cannot be unpacked ({error})") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DistillkitError(f"{path}: not an IDX file of unsigned bytes")
    dimensions = raw[3]
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise DistillkitError(f"{path}: says it holds {shape} values, and holds {values.size}")
    return values.reshape(shape)
