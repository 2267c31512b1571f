"""Checks the config of a scheduler, and makes diffusers' scheduler of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import diffusers
import torch

from distillkit.errors import DistillkitError, Mistake
from distillkit_diffusers.scheduler_fields import CLIPS_BY_DEFAULT, IN_EVERY_CLASS, Fields
from distillkit_diffusers.scheduler_values import DEFAULTS, shown


def _class_of(config: Mapping[str, Any]) -> str:
    """The name of a config's class."""
    return str(config.get("_class_name", "DDPMScheduler"))


def check(
    config: Mapping[str, Any], given: Mapping[str, Any], supported: tuple[Fields, ...], file: Path | None = None
) -> Iterator[Mistake]:
    """Mistakes in a scheduler's config.

    Args:
        config: as in scheduler_config.json.
        given: the part of it that the option `scheduler` gives. Its fields must be known; diffusers ignores any other
            field of a folder.
        supported: the classes that the family has.
        file: where all other fields are from.
    """
    name = _class_of(config)
    fields = next((one for one in supported if name in one.classes), None)
    if fields is None:
        known = ", ".join(one for group in supported for one in group.classes)
        yield Mistake("scheduler", f"is a {name}; expected one of {known} (scheduler._class_name)")
        return
    for key in given:
        grouped = key in (*fields.used, *fields.refused, *fields.harmless)
        if not key.startswith("_") and not (grouped and _has(name, key)):
            yield Mistake(f"scheduler.{key}", f"is no field of a {name}; leave it out")
    for key, (taken, means) in fields.refused.items():
        clips = key == "clip_sample" and config.get("_class_name") in CLIPS_BY_DEFAULT
        found = config.get(key, clips or taken[0])
        if found not in taken and key in _parameters(name):
            yield Mistake(
                f"scheduler.{key}",
                f"is {shown(found)}: {means}; to use the network without it: "
                f"--set model.scheduler.{key}={shown(taken[0])}",
            )
    for key, rule in fields.used.items():
        if key not in config and key not in DEFAULTS:
            continue
        value = config.get(key, DEFAULTS.get(key))
        expected = rule(value, config)
        # diffusers ignores a field that its class lacks.
        if expected is not None and _has(name, key):
            where = "" if key in given else f" in {file}" if key in config else " by default"
            yield Mistake(f"scheduler.{key}", f"is {shown(value)}{where}; expected {expected}")


def make(config: Mapping[str, Any], supported: tuple[Fields, ...]) -> Any:
    """diffusers' scheduler of a config, with the fields that are used, and defaults for all others.

    Raises:
        DistillkitError: diffusers does not take them, or lacks a package that the class needs.
    """
    name = _class_of(config)
    [used] = [one.used for one in supported if name in one.classes]
    try:
        return getattr(diffusers, name)(**{key: config[key] for key in used.keys() & _parameters(name) & config.keys()})
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DistillkitError(f"model.scheduler: diffusers does not take this {name}: {reason}") from error


def _has(name: str, key: str) -> bool:
    """Whether a class has a field, as far as is known: one whose package is missing says nothing about its fields."""
    # Looked up only where it matters, because that imports diffusers.
    return key in IN_EVERY_CLASS or key in (_parameters(name) or (key,))


def _parameters(name: str) -> frozenset[str]:
    """The fields of a class. One whose package is missing has none."""
    parameters = signature(getattr(diffusers, name).__init__).parameters.values()
    return frozenset(one.name for one in parameters if one.kind is Parameter.POSITIONAL_OR_KEYWORD) - {"self"}


def set_steps(scheduler: Any, steps: int) -> None:
    """Set a scheduler to a number of steps, at its first one."""
    with warnings.catch_warnings():
        # numpy's, about how diffusers hands it a tensor.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(steps)
    # By a rounding error, some trailing grids (of 61 steps, say) have one more time, -1.
    scheduler.timesteps = scheduler.timesteps[:steps]
    scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
    # Otherwise it looks up the first time, and takes the second of two equal ones.
    scheduler.set_begin_index(0)
