"""Where a path leads: a local folder, or a copy of what the Hugging Face hub has under that name."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.errors

from distillkit.errors import DistillkitError

WANTED = ["*.json", "*.txt", "*.model", "*/*.safetensors", "diffusion_pytorch_model*.safetensors"]
"""What is fetched: parts in folders of their own, or a bare network; no pickles, and no second copies of everything in
one file."""
NOT_WANTED = ["*.fp16.*", "*non_ema*", "*.bf16.*"]


def is_hub_id(path: Path) -> bool:
    """Whether a path that is not there can only be meant as "owner/name" on the hub."""
    there = path.exists() or path.parent.is_dir()
    return not there and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) is not None


def is_unknown(path: Path) -> bool:
    """Whether nobody can say what is there before it is fetched, and it may be fetched."""
    if not is_hub_id(path):
        return False

    return not huggingface_hub.constants.HF_HUB_OFFLINE and _cached(str(path)) is None


def local_folder(path: Path) -> Path:
    """The folder that a path means. What the hub's cache has no copy of is fetched.

    Raises:
        DistillkitError: there is no copy, and it cannot be fetched.
    """
    if not is_hub_id(path):
        return path

    name = str(path)
    if (found := _cached(name)) is not None:
        return found
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED, ignore_patterns=NOT_WANTED))
    # What it raises without a network is its HTTP library's, and that changes.
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
    """The copy in the hub's cache."""

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, local_files_only=True, allow_patterns=WANTED, ignore_patterns=NOT_WANTED
            )
        )
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return None
