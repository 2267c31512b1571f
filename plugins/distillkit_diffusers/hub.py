"""Resolves `model.path`: a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.errors

from distillkit.errors import DistillkitError

WANTED = ["*.json", "*.txt", "*.model", "*/*.safetensors", "diffusion_pytorch_model*.safetensors"]
"""The files to download: parts in folders of their own, or a bare network; no pickles, and no single-file copies."""
NOT_WANTED = ["*.fp16.*", "*non_ema*", "*.bf16.*"]


def is_hub_id(path: Path) -> bool:
    """Whether a path does not exist and can only mean "owner/name" on the hub."""
    there = path.exists() or path.parent.is_dir()
    return not there and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) is not None


def is_unknown(path: Path) -> bool:
    """Whether a path means a repository that is not in the cache yet, and may be downloaded."""
    if not is_hub_id(path):
        return False

    return not huggingface_hub.constants.HF_HUB_OFFLINE and _cached(str(path)) is None


def local_folder(path: Path) -> Path:
    """The folder that a path means. A repository that is not in the hub's cache is downloaded.

    Raises:
        DistillkitError: it is not in the cache, and cannot be downloaded.
    """
    if not is_hub_id(path):
        return path

    name = str(path)
    if (found := _cached(name)) is not None:
        return found
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED, ignore_patterns=NOT_WANTED))
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


def _cached(name: str) -> Path | None:
    """The copy in the hub's cache; None if there is none."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, local_files_only=True, allow_patterns=WANTED, ignore_patterns=NOT_WANTED
            )
        )
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return None
