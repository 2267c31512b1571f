"""The values that the fields of a scheduler's config may have. Imports no torch and no diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from sys import float_info
from typing import Any

Rule = Callable[[Any, Mapping[str, Any]], str | None]
"""A value and the whole config -> what was expected in its place; None if it is taken."""

DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "use_dynamic_shifting": False,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
"""The defaults of diffusers' that rules compare other fields with, for the classes that use those fields."""

LARGEST = 1_000_000
"""More times than any network has, and few enough for a table of them."""


def shown(value: Any) -> str:
    """A value as JSON, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def one_of(*names: str) -> Rule:
    """One of some names."""
    expected = f"{', '.join(map(shown, names[:-1]))} or {shown(names[-1])}"
    return lambda value, config: None if value in names else expected


def boolean(value: Any, config: Mapping[str, Any]) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true or false"


def number(low: float, high: float = float_info.max) -> Rule:
    """A finite number in [low, high]."""
    expected = f"a number from {low:g}" + (f" to {high:g}" if high < float_info.max else " on")
    return lambda value, config: None if _is_number(value) and low <= value <= high else expected


def positive(value: Any, config: Mapping[str, Any]) -> str | None:
    """A finite number above 0."""
    return None if _is_number(value) and value > 0 else "a number above 0"


def times(value: Any, config: Mapping[str, Any]) -> str | None:
    """A number of times."""
    return None if _is_whole(value) and 1 <= value <= LARGEST else f"a whole number from 1 to {LARGEST}"


def trained_betas(value: Any, config: Mapping[str, Any]) -> str | None:
    """A β for each time; null: the schedule makes them."""
    count = _of(config, "num_train_timesteps", times)
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_number(beta) and 0 <= beta <= 1 for beta in value):
        return f"a list of {count} numbers from 0 to 1, one for each time"
    return None if len(value) == count else f"{count} numbers, one for each time (got {len(value)})"


def zero_snr(value: Any, config: Mapping[str, Any]) -> str | None:
    """Whether the last time is pure noise, which an ε-network cannot start from."""
    if value is True and config.get("prediction_type", DEFAULTS["prediction_type"]) == "epsilon":
        return (
            "false, as the last time would be pure noise, where an ε-prediction says nothing about x; use a v- or "
            "x-prediction network, or a schedule without it"
        )
    return boolean(value, config)


def leading_offset(value: Any, config: Mapping[str, Any]) -> str | None:
    """Where leading grids end; without effect on others."""
    last = _of(config, "num_train_timesteps", times) - 1
    used = config.get("timestep_spacing", DEFAULTS["timestep_spacing"]) == "leading"
    taken = not used or (_is_whole(value) and 0 <= value <= last)
    return None if taken else f"a whole number from 0 to {last}, the noisiest time"


def original_steps(value: Any, config: Mapping[str, Any]) -> str | None:
    """The number of times among which LCMScheduler chooses."""
    count = _of(config, "num_train_timesteps", times)
    return None if _is_whole(value) and 1 <= value <= count else f"a whole number from 1 to {count}, the times"


def largest_sigma(value: Any, config: Mapping[str, Any]) -> str | None:
    """Not below `sigma_min`. In an export for one step they are equal, but for rounding."""
    low = _of(config, "sigma_min", positive)
    taken = _is_number(value) and value > 0 and low <= value * (1 + 1e-6)
    return None if taken else f"a number above sigma_min, {low:g}"


def terminal(value: Any, config: Mapping[str, Any]) -> str | None:
    """The σ to which a grid is stretched; 0 or null: it is not."""
    return None if value is None or (_is_number(value) and 0 <= value < 1) else "a number from 0 (off) to below 1"


def dynamic(rule: Rule) -> Rule:
    """A rule for a field that has an effect only if the shift is dynamic."""
    key = "use_dynamic_shifting"
    return lambda value, config: rule(value, config) if config.get(key, DEFAULTS[key]) is True else None


def longest(value: Any, config: Mapping[str, Any]) -> str | None:
    """The length at which the shift is `max_shift`."""
    base = _of(config, "base_image_seq_len", number(0))
    return None if _is_number(value) and value > base else f"a number above base_image_seq_len, {base:g}"


def _of(config: Mapping[str, Any], key: str, rule: Rule) -> Any:
    """Another field's value; its default if it has a mistake of its own."""
    value = config.get(key, DEFAULTS[key])
    return value if rule(value, config) is None else DEFAULTS[key]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max
