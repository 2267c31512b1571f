"""Reads the YAML of a CompVis latent diffusion, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit_compvis.config import Config, Diffusion


def read(path: Path) -> Diffusion:
    """Read a config.

    Raises:
        ConfigError: what cannot be converted, each with its key.
        DistillkitError: the file cannot be read.
    """

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DistillkitError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DistillkitError(f"{path}: must be the config of a CompVis latent diffusion, with `model` at its top")
    try:
        return Config.model_validate(content).model.params
    except ValidationError as error:
        raise ConfigError([_mistake(fault) for fault in error.errors()], str(path)) from None


def _mistake(fault: Any) -> Mistake:
    """One of pydantic's errors in our words."""
    key, got = ".".join(map(str, fault["loc"])), fault["input"]
    if fault["type"] == "missing":
        return Mistake(key, "is required")
    if fault["type"] == "extra_forbidden":
        return Mistake(key, "is not known: the network would not be diffusers'")
    if fault["type"] == "value_error":
        return Mistake(key, str(fault["ctx"]["error"]))
    if fault["type"] == "model_type":
        return Mistake(key, f"must be a mapping with target and params (got {got!r})")
    if fault["type"] == "too_long":
        return Mistake(key, f"must be empty (got {got})")
    return Mistake(key, f"{fault['msg'].replace('Input should', 'must')} (got {got!r})")
