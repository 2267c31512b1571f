"""The files with the weights of one network: which there are, which are read, and what is wrong with them.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from distillkit.errors import DistillkitError
from distillkit_diffusers.headers import Weights
from distillkit_diffusers.reading import read_json, what_is

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

LORAS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""The files in which diffusers and peft save a LoRA alone."""


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
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise DistillkitError(f"{index}: weight_map must be an object: the name of a file for each weight; get it anew")
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise DistillkitError(f"{index}: names '{name}', which is not a file of its own folder")
        if not (index.parent / name).is_file():
            raise DistillkitError(f"{index}: names '{name}', which {what_is(index.parent / name)}")
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
    if odd := next((name for name in names if _FILE.fullmatch(name) and not (folder / name).is_file()), None):
        return f"{folder / odd}: {what_is(folder / odd)}; expected the weights: get the file anew"
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
