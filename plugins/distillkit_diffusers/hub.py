"""Resolves `model.path`: a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import huggingface_hub.constants
import huggingface_hub.errors

from distillkit.errors import DistillkitError
from distillkit_diffusers.weights import DISTILLED, STEMS, VariantError, choose, variants

WANTED = ("*.json", "*.txt", "*.model")
"""Of the files without weights, those to download."""


def files_of(names: Iterable[str], variant: str | None) -> list[str]:
    """The files of a repository to download: no pickles, no single-file copies, one variant of each network's weights.

    Args:
        names: of all files of the repository, with their folders.
        variant: `model.variant`.

    Raises:
        VariantError: see `choose`.
    """
    chosen, folders = [], defaultdict(list)
    for path in map(PurePosixPath, names):
        folders[path.parent].append(path.name)
    for folder, inside in folders.items():
        weights: set[str] = set()
        for stem in STEMS.values():
            found = variants(inside, stem)
            weights.update(*found.values())
            # A pipeline's own folder may have a copy of the text encoder, say, for other libraries.
            if found and (folder.name or stem == STEMS["diffusers"]):
                strict = folder.name in ("", *DISTILLED)
                picked = choose(found, variant, strict, folder.name or "it")
                chosen += [str(folder / name) for name in found[picked]]
        others = (name for name in inside if name not in weights and any(fnmatch(name, kind) for kind in WANTED))
        chosen += [str(folder / name) for name in others]
    return chosen


def is_hub_id(path: Path) -> bool:
    """Whether a path does not exist and can only mean "owner/name" on the hub."""
    there = path.exists() or path.parent.is_dir()
    return not there and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) is not None


def is_unknown(path: Path, variant: str | None) -> bool:
    """Whether a path means a repository that is not in the cache yet, and may be downloaded."""
    if not is_hub_id(path):
        return False

    return not huggingface_hub.constants.HF_HUB_OFFLINE and _cached(str(path), variant) is None


def local_folder(path: Path, variant: str | None) -> Path:
    """The folder that a path means. A repository that is not in the hub's cache is downloaded.

    Raises:
        VariantError: the repository has no weights of the variant, or several variants and none is chosen.
        DistillkitError: it is not in the cache, and cannot be downloaded.
    """
    if not is_hub_id(path):
        return path

    name = str(path)
    if (found := _cached(name, variant)) is not None:
        return found
    try:
        listed = huggingface_hub.HfApi().model_info(name).siblings or ()
        files = files_of((file.rfilename for file in listed), variant)
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except VariantError as error:
        raise VariantError(f"{name}: {error}") from None
    # Without a network it raises errors of its HTTP library, which changes between versions.
    except Exception as error:
        reason = (
            "HF_HUB_OFFLINE is set"
            if huggingface_hub.constants.HF_HUB_OFFLINE
            else str(error).strip().partition("\n")[0]
        )
        raise DistillkitError(
            f"there is no folder {name} here, no copy of the hub's {name} in "
            f"{huggingface_hub.constants.HF_HUB_CACHE}, and it could not be fetched ({reason}); give a local "
            f"folder that diffusers saved, or run `hf download {name}` where there is a network"
        ) from None


def _cached(name: str, variant: str | None) -> Path | None:
    """The copy in the hub's cache; None if there is none, or if it lacks the distilled network's weights.

    What other programs put there may be a part of the repository, or another variant.
    """
    try:
        # Every part has a config; asked for more, the cache may miss files that are not wanted.
        copy = Path(huggingface_hub.snapshot_download(name, local_files_only=True, allow_patterns="*config.json"))
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return None
    for folder in (copy / "unet", copy / "transformer", copy):
        if (folder / "config.json").is_file():
            found = variants((file.name for file in folder.iterdir()), STEMS["diffusers"])
            whole = found if variant is None else variant in found
            return copy if whole or huggingface_hub.constants.HF_HUB_OFFLINE else None
    return copy
