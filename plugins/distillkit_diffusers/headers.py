"""What the headers of a network's files of weights say: the names of the weights, their shapes and their types.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.errors import DistillkitError
from distillkit_diffusers.reading import opened, read_json

PRECISIONS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The types that weights may have, as safetensors and torch call them."""
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch's wrappers (compile, FSDP, activation checkpointing) write into the names of weights."""
_ADAPTED = re.compile(r"(^|[._])(lora_[AB]|lora_(down|up)|lora\.(down|up)|base_layer)[._]")
"""What peft, diffusers and others write into the names of a network's weights that has an adapter."""


class Entry(NamedTuple):
    """One tensor of a file.

    Attributes:
        file: the file.
        name: its name there.
        shape: its shape.
        type: its type, as safetensors calls it.
    """

    file: Path
    name: str
    shape: list[int]
    type: str


@dataclass(frozen=True)
class Weights:
    """The weights of one network that are read.

    Attributes:
        folder: the network's.
        variant: the variant's name; None for weights without one.
        files: one, or several shards.
        index: the index of the shards; None for one file.
    """

    folder: Path
    variant: str | None
    files: tuple[Path, ...]
    index: Path | None = None

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors, by the names that the network has for them.

        Raises:
            DistillkitError: a file is damaged, no safetensors or empty; the index names what is not there; two tensors
                have one name; they are of a LoRA; or weights are no floating-point numbers.
        """
        found = [*self._headers()]
        entries: dict[str, Entry] = {}
        for own, entry in zip(_own_names([entry.name for entry in found]), found, strict=True):
            if own in entries:
                other = entries[own]
                raise DistillkitError(
                    f"{self.folder} has two tensors for the weight {own}: {other.name} in {other.file.name}, and "
                    f"{entry.name} in {entry.file.name}; leave one of them"
                )
            entries[own] = entry
        if not any(prod(entry.shape) for entry in found):
            raise DistillkitError(f"{self.files[0]}: holds no weights; get the file anew")
        if adapted := next(filter(_ADAPTED.search, entries), None):
            raise DistillkitError(
                f"{self.folder} has a LoRA that is not fused into the network's weights ({adapted}): fuse it in the "
                "script that saved it (diffusers: fuse_lora, then unload_lora; peft: merge_and_unload), and save again"
            )
        for own, entry in entries.items():
            # Buffers may be whole numbers (CLIP's position_ids).
            if own.endswith((".weight", ".bias")):
                check_type(entry)
        self._check_index({(entry.name, entry.file.name) for entry in found})
        return entries

    def _headers(self) -> Iterator[Entry]:
        for file in self.files:
            with opened(file, "np") as content:
                for name in content.offset_keys():
                    part = content.get_slice(name)
                    yield Entry(file, name, part.get_shape(), part.get_dtype())

    def _check_index(self, found: set[tuple[str, str]]) -> None:
        """Check that the shards hold what their index names: the libraries rely on it.

        Args:
            found: the names of the tensors, and of their files.
        """
        named = {} if self.index is None else read_json(self.index)["weight_map"]
        if missing := sorted(named.items() - found):
            name, file = missing[0]
            raise DistillkitError(
                f"{self.index}: names the weight {name} in {file}, which does not have it ({len(missing)} of "
                f"{len(named)} are missing); get the folder anew"
            )

    def shapes(self) -> dict[str, list[int]]:
        """The shapes of the weights by the names that the network has for them. Raises as `entries`."""
        return {own: entry.shape for own, entry in self.entries.items()}

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def precision(self) -> str:
        """torch's name for the type of most of the weights: "float16", "bfloat16" or "float32". Raises as `entries`."""
        types = [entry.type for entry in self.entries.values()]
        most = max(types, key=types.count)
        return PRECISIONS[most] if most in ("F16", "BF16") else "float32"

    @property
    def wrapped(self) -> bool:
        """Whether names in the files are not the network's own. Raises as `entries`."""
        return any(own != entry.name for own, entry in self.entries.items())

    def tensors(self) -> dict[str, Any]:
        """The weights, torch's, by the network's own names. Raises as `entries`."""
        found: dict[str, Any] = {}
        for file in self.files:
            with opened(file, "pt") as content:
                of_file = ((own, entry.name) for own, entry in self.entries.items() if entry.file == file)
                found |= {own: content.get_tensor(name) for own, name in of_file}
        return found

    def file_of(self, name: str) -> Path:
        """The file with a weight, which has this name in the network; the folder if the network renames it."""
        for own, entry in self.entries.items():
            if own == name or own.endswith(f".{name}"):
                return entry.file
        return self.files[0] if len(self.files) == 1 else self.folder


def _own_names(names: Sequence[str]) -> list[str]:
    """The network's own names, without what wrappers put into them.

    DistributedDataParallel and DataParallel begin every name with "module."; a network's own may begin so, too.
    """
    own = [_WRAPPERS.sub("", name) for name in names]
    if all(name.startswith("module.") for name in own):
        return [name.removeprefix("module.") for name in own]
    return own


def check_type(entry: Entry) -> None:
    """Check that a tensor has numbers with a fraction.

    Raises:
        DistillkitError: it is quantized, or something else.
    """
    if entry.type not in PRECISIONS:
        raise DistillkitError(
            f"{entry.file}: {entry.name} has the type {entry.type}; expected {', '.join(PRECISIONS)}: quantized "
            "weights are not read, so give the network as it was before"
        )
