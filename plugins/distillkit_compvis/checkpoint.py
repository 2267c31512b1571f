"""Opens a pickled checkpoint without running its code."""

from __future__ import annotations

import pickle
import re
import reprlib
import warnings
import zipfile
from pathlib import Path

import torch

from distillkit.errors import DistillkitError
from distillkit.files import reason


class Nothing:
    """Replaces an object that is not needed, and drops its state."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


HARMLESS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # a key of the callbacks' states
    # Losses and scores, as numpy scalars.
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Classes that PyTorch Lightning left in CompVis' files besides tensors. `Nothing` is made instead of them."""


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name.

    Raises:
        DistillkitError: it is not a checkpoint, or its pickle needs classes that are neither tensors nor in `HARMLESS`.
    """
    if _is_compressed(path):
        raise _unreadable(path, "it is compressed, which torch.save never does")
    try:
        with torch.serialization.safe_globals([(Nothing, name) for name in HARMLESS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other protocols, which are read or refused anyway
            with path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+) (?:was not|whose)", str(error)):
            raise DistillkitError(
                f"{path}: refused, because its pickle needs {short(found[1])}, which is not a tensor; none of its code "
                "was run. If you trust the file, save its {'state_dict': …} alone, and convert that"
            ) from None
        raise _unreadable(path, "its pickle contains objects other than tensors") from None
    except RuntimeError as error:
        raise _unreadable(path, short(reason(error).partition(". ")[0])) from None
    except OSError as error:
        raise _unreadable(path, reason(error)) from None
    except Exception:  # a file of another kind, or a damaged one, may fail at any step
        raise _unreadable(path, "it is no pickle of tensors") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise _unreadable(path, "it holds no 'state_dict'")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _unreadable(path, f"{short(name, quoted=True)} in its state_dict is not a tensor")
    return state


def _is_compressed(path: Path) -> bool:
    """Whether it is an archive that may grow a thousandfold when it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):  # no archive, or one for torch to judge
        return False


def _unreadable(path: Path, why: str) -> DistillkitError:
    return DistillkitError(f"{path}: is not a CompVis checkpoint ({why}); give a .ckpt file as they are published")


class _Short(reprlib.Repr):
    """Cuts what is long, as `got` of a message."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 300

    def repr_int(self, x: int, level: int) -> str:
        """Python writes no integers of more than 4300 digits."""
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 1000 else str(x)


def short(value: object, quoted: bool = False) -> str:
    """A value out of a file, for a message.

    Args:
        value: anything, of any length.
        quoted: whether strings are quoted. Those that are long, or that would not be seen as they are, always are.
    """
    if isinstance(value, str) and not quoted and len(value) <= 300 and value.isprintable():
        return value
    return _Short().repr(value)
