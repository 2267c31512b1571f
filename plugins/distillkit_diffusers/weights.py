"""The files with the weights of one network: which there are, which are read, and what is wrong with them.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError
from distillkit_diffusers.reading import opened, read_json

DISTILLED = ("unet", "transformer")
"""The names that diffusers' pipelines have for the network that is distilled."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""How the names of a library's files of weights begin."""
_FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)(?:\.(?P<early>[\w-]+?))?(?:-\d+-of-\d+)?(?:\.(?P<late>[\w-]+))?"
    r"\.safetensors(?P<index>\.index(?:\.(?P<last>[\w-]+))?\.json)?"
)
"""One file, a shard of several, or the index of shards; a variant's name stands in one of three places."""
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch's wrappers (compile, FSDP, activation checkpointing) write into the names of weights."""

LORAS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""The files in which diffusers and peft save a LoRA alone."""
_ADAPTED = re.compile(r"(^|[._])(lora_[AB]|lora_(down|up)|lora\.(down|up)|base_layer)[._]")
"""What peft, diffusers and others write into the names of a network's weights that has an adapter."""


class VariantError(DistillkitError):
    """`model.variant` is missing where a choice is needed, or names what is not there."""


def variants(names: Iterable[str], stem: str) -> dict[str, list[str]]:
    """The variants among the names of files, each with its files; "" is the one without a name.

    Args:
        names: of files in one folder.
        stem: one of `STEMS`.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        match = _FILE.fullmatch(name)
        if match is not None and match["stem"] == stem:
            found.setdefault(match["early"] or match["late"] or match["last"] or "", []).append(name)
    return found


def choose(found: Collection[str], wanted: str | None, strict: bool, where: object) -> str:
    """Choose a variant: the wanted one; else the one without a name, which is in full precision; else the only one.

    Args:
        found: the variants, at least one.
        wanted: `model.variant`.
        strict: whether the wanted one must be there.
        where: the folder, for messages.

    Raises:
        VariantError: the wanted one is not there, or there are several and none is in full precision.
    """
    named = ", ".join(f'"{name}"' for name in sorted(found) if name)
    if wanted in found:
        return str(wanted)
    if wanted is not None and strict:
        others = " and ".join(filter(None, [named, "weights without a variant's name" * ("" in found)]))
        raise VariantError(f"{where} has no weights of the variant '{wanted}'; it has {others}")
    if "" in found:
        return ""
    if len(found) > 1:
        raise VariantError(
            f"{where} has the weights as the variants {named}, and none without a variant's name; choose one with "
            "model.variant (on the command line: --set model.variant=…)"
        )
    return next(iter(found))


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

    def shapes(self) -> dict[str, list[int]]:
        """The shapes of the weights by the names that the network has for them.

        Raises:
            DistillkitError: a file is damaged, or no safetensors.
        """
        found: dict[str, list[int]] = {}
        for file in self.files:
            with opened(file, "np") as content:
                found |= {name: content.get_slice(name).get_shape() for name in content.offset_keys()}
        return {bare: found[name] for name, bare in self.bare_names().items()}

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def precision(self) -> str:
        """torch's name for the type of most of the weights: "float16", "bfloat16" or "float32"."""
        with opened(self.files[0], "np") as content:
            types = [content.get_slice(name).get_dtype() for name in content.offset_keys()]
        return {"F16": "float16", "BF16": "bfloat16"}.get(max(types, key=types.count), "float32")

    @property
    def stem(self) -> str:
        """How the names of the files begin; one of `STEMS`."""
        return stem_of(self.folder)

    def bare_names(self) -> dict[str, str]:
        """The names in the files -> the network's own, without what wrappers put into them. Raises as `shapes`.

        DistributedDataParallel and DataParallel begin every name with "module."; a network's own may begin so, too.
        """
        names: list[str] = []
        for file in self.files:
            with opened(file, "np") as content:
                names += content.offset_keys()
        bare = {name: _WRAPPERS.sub("", name) for name in names}
        if bare and all(name.startswith("module.") for name in bare.values()):
            bare = {name: own.removeprefix("module.") for name, own in bare.items()}
        if adapted := next(filter(_ADAPTED.search, bare.values()), None):
            raise DistillkitError(
                f"{self.folder} has a LoRA that is not fused into the network's weights ({adapted}): fuse it in the "
                "script that saved it (diffusers: fuse_lora, then unload_lora; peft: merge_and_unload), and save again"
            )
        return bare

    @property
    def wrapped(self) -> bool:
        """Whether names in the files are not the network's own. Raises as `shapes`."""
        return any(name != own for name, own in self.bare_names().items())

    def tensors(self) -> dict[str, Any]:
        """The weights, torch's, by the network's own names. Raises as `shapes`."""
        bare = self.bare_names()
        found: dict[str, Any] = {}
        for file in self.files:
            with opened(file, "pt") as content:
                found |= {bare[name]: content.get_tensor(name) for name in content.offset_keys()}
        return found

    def file_of(self, name: str) -> Path:
        """The file with a weight, which has this name in the network; the folder if the network renames it."""
        for file in self.files:
            with opened(file, "np") as content:
                if any(key == name or key.endswith(f".{name}") for key in content.offset_keys()):
                    return file
        return self.files[0] if len(self.files) == 1 else self.folder


def find(folder: Path, wanted: str | None, strict: bool) -> Weights:
    """Find the weights that are read. Their headers are not.

    Args:
        folder: the network's, with its config.json.
        wanted, strict: see `choose`.

    Raises:
        VariantError: see `choose`.
        DistillkitError: there are no weights as safetensors, or an index of shards names files that are not there.
    """
    found = variants_in(folder)
    if not found:
        raise DistillkitError(_none(folder))
    variant = choose(found, wanted, strict, folder)
    names = found[variant]
    index = next((folder / name for name in names if name.endswith(".json")), None)
    whole = [folder / name for name in names if not re.search(r"-\d+-of-\d+|\.json$", name)]
    if index is None and not whole:
        raise DistillkitError(f"{folder} has the shard {names[0]}, and no index that names all of them; get it anew")
    files = whole[:1] if index is None else list(_shards(index))
    return Weights(folder, variant or None, tuple(files), index)


def _shards(index: Path) -> Iterator[Path]:
    weight_map = read_json(index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else [weight_map]
    for name in sorted({str(name) for name in names}):
        if Path(name).name != name:
            raise DistillkitError(f"{index}: names '{name}', which is not a file of its own folder")
        if not (index.parent / name).is_file():
            raise DistillkitError(f"{index}: names '{name}', which is not there")
        yield index.parent / name


def variants_in(folder: Path) -> dict[str, list[str]]:
    """The variants of a network's weights in its folder; see `variants`."""
    return variants((file.name for file in folder.iterdir() if file.is_file()), stem_of(folder))


def stem_of(folder: Path) -> str:
    """How the names of a network's files of weights begin."""
    # transformers does not write the class under this key.
    return STEMS["diffusers" if "_class_name" in read_json(folder / "config.json") else "transformers"]


def about_lora(name: str) -> str:
    """What a LoRA's file is and what to do with it, as the end of a sentence."""
    return (
        f"; {name} is a LoRA, which holds changes to a network's weights alone: load it into its pipeline with "
        "load_lora_weights, call fuse_lora and unload_lora_weights, and give what save_pretrained writes"
    )


def _none(folder: Path) -> str:
    """Why there are no weights."""
    expected = f"{stem_of(folder)}.safetensors"
    names = sorted(file.name for file in folder.iterdir())
    if lora := next((name for name in names if name in LORAS), None):
        return f"{folder} has no weights of a network ({expected}){about_lora(lora)}"
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"{folder} has its weights as a pickle ({pickles[0]}), which may run code when it is opened; expected "
            "safetensors: save the pipeline anew, with diffusers' save_pretrained"
        )
    others = [name for name in names if name.endswith(".safetensors")]
    return f"{folder} has no weights in safetensors format ({expected})" + (
        f": {others[0]} is not what diffusers calls them" if others else ""
    )
