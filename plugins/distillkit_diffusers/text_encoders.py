"""A pipeline's text encoders, for as long as prompts are encoded. Imports torch, diffusers and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from distillkit.errors import DistillkitError
from distillkit_diffusers import networks
from distillkit_diffusers.folder import PipelineFolder


def load(folder: PipelineFolder, pipeline_class: Any, encoders: Mapping[str, str], others: Mapping[str, Any]) -> Any:
    """A pipeline that can do no more than encode prompts. Its encoders are on a GPU, if there is one.

    Args:
        folder: where encoders and tokenizers are.
        pipeline_class: one of diffusers'.
        encoders: its parts with text encoders, and the class of each in transformers.
        others: what else the pipeline is given; parts of the folder that are neither here nor tokenizers are left out.

    Raises:
        DistillkitError: encoders or tokenizers cannot be loaded.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = {
        part: networks.load_frozen(folder.part(part), getattr(transformers, name)).to(device)
        for part, name in encoders.items()
    }
    nothing = {part: None for part in folder.components if not part.startswith("tokenizer")}
    try:
        return pipeline_class.from_pretrained(folder.path, **nothing | loaded | dict(others), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise DistillkitError(f"model.path: diffusers cannot load the tokenizers in {folder.path}: {error}") from error
