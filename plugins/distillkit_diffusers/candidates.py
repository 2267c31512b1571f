"""What else there is where a folder or its weights are refused: other weights, other networks, what a training left.

Each function gives the end of a sentence, which may be empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from distillkit.errors import DistillkitError
from distillkit_diffusers import weights
from distillkit_diffusers.weights import DISTILLED, LORAS, PICKLES, about_lora

MOST = 5
"""Candidates to name."""
CHECKPOINT = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors", "optimizer.bin")
"""Files that accelerate writes into a checkpoint."""


def beside(folder: Path, used: str | None = None) -> str:
    """What else could be read where the weights of a folder are refused, as the end of a sentence; may be empty.

    Args:
        folder: the network's.
        used: the variant that is refused; None for weights without a variant's name.
    """
    found = weights.variants_in(folder) if (folder / "config.json").is_file() else ()
    offers = [
        f'the variant {name} (model.variant = "{name}")' if name else "weights without a variant's name"
        for name in sorted(found)
        if name != (used or "") and _readable(folder, name)
    ]
    offers += [f'{name}/ (model.subfolder = "{name}")' for name in _near(folder)]
    return f"; what can be read there: {', '.join(offers)}" if offers else ""


def others(folder: Path) -> str:
    """The networks beside a good one, such as an average of its weights, and how to take them; may be empty."""
    return ", ".join(f"{name}/ (to distil it instead: --set model.subfolder={name})" for name in _near(folder))


def _near(folder: Path) -> Iterator[str]:
    """The names of a pipeline's other networks of the same kind that can be read."""
    base = folder.name.partition("_")[0]
    if base in DISTILLED:
        for other in sorted(folder.parent.glob(f"{base}*/")):
            if other != folder and _readable(other, None):
                yield other.name


def _readable(folder: Path, wanted: str | None) -> bool:
    with suppress(DistillkitError):
        return bool(weights.find(folder, wanted, strict=True).shapes())
    return False


def of_file(file: Path) -> str:
    """The end of a sentence that refuses a file."""
    if file.suffix in PICKLES:
        return "; `distillkit convert` makes such a folder of an original checkpoint and its config.yaml"
    if file.name in LORAS:
        return about_lora(file.name)
    holder = next((folder for folder in file.parents[:2] if _is_candidate(folder)), None)
    return f"; give {holder}" if holder is not None else _advice(file.name) * (file.suffix == ".safetensors")


def in_folder(folder: Path) -> str:
    """The end of a sentence that refuses a folder: the pipelines and networks in it; may be empty."""
    found = [str(inner) for inner in _inside(folder)]
    if found:
        more = f" (and {len(found) - MOST} more)" if len(found) > MOST else ""
        return f"; it holds {', '.join(found[:MOST])}{more}: give one of them"
    if lora := next((name for name in LORAS if (folder / name).is_file()), None):
        return about_lora(lora)
    left = next((name for name in CHECKPOINT if (folder / name).is_file()), None)
    return _advice(left) if left is not None else ""


def around(folder: Path) -> str:
    """The end of a sentence that refuses a network without its pipeline."""
    if (folder.parent / "model_index.json").is_file():
        name = "" if folder.name in DISTILLED else f', and model.subfolder = "{folder.name}"'
        return f"; it is a part of the pipeline in {folder.parent}: give that{name}"
    return (
        "; copy its folder into that of the pipeline that it was trained from, give that, and name the folder in "
        "model.subfolder"
    )


def _advice(name: str) -> str:
    return (
        f"; {name} is a training script's checkpoint, which does not say what network it is of: load it in that "
        "script, and write the network with save_pretrained"
    )


def _inside(folder: Path) -> Iterator[Path]:
    """Pipelines and networks in a folder, and one level below it; the newest checkpoint first."""
    for inner in sorted((inner for inner in folder.iterdir() if inner.is_dir()), key=_newest_first):
        if _is_candidate(inner):
            yield inner
        else:
            yield from sorted(below for below in inner.glob("*/") if _is_candidate(below))


def _newest_first(folder: Path) -> tuple[int, str]:
    number = re.search(r"\d+$", folder.name)
    return -int(number.group()) if number else 0, folder.name


def _is_candidate(folder: Path) -> bool:
    """Whether there is a pipeline, or a network of the kinds that are distilled."""
    return (folder / "model_index.json").is_file() or (
        folder.name.startswith(("unet", "transformer")) and (folder / "config.json").is_file()
    )
