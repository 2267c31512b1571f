"""`[grid]`: how the times of a grid lie between the noise and clean data, by name, or as a blend of two spacings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from math import inf
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field

from distillkit.component import StrictModel
from distillkit.errors import DistillkitError, GridError

SCHEDULERS_OWN = ("trailing", "leading", "linspace")
"""The spacings that the configs of diffusers' schedulers can name."""
SPACINGS = (*SCHEDULERS_OWN, "angle", "karras")
"""All spacings. The times of the last two have to be handed to a scheduler."""

RHO = 7.0
"""ρ of "karras" (Karras et al. 2022, section 3)."""

_TERM = re.compile(r"(?:(\d*\.?\d+) +)?([a-z]+(?:-\d+)?)")
_NAME = re.compile("|".join([*SPACINGS, r"karras-([2-9]|[1-9]\d+)"]))


def weights(spacing: str) -> dict[str, float]:
    """The spacings in `grid.spacing`, and their weights: {"angle": 1.0}, or those of a blend, which add up to 1.

    A blend is "trailing + angle", with equal weights, or "0.7 trailing + 0.3 angle".

    Raises:
        ValueError: it is neither.
    """
    terms = [_TERM.fullmatch(term.strip()) for term in spacing.split("+")]
    found = {term[2]: float(term[1]) if term[1] else None for term in terms if term is not None}
    given = [weight for weight in found.values() if weight is not None]
    known = all(_NAME.fullmatch(name) for name in found)
    if not (len(found) == len(terms) <= 2 and known and len(given) in (0, len(found))):
        raise ValueError(
            f"must be {', '.join(map(repr, SPACINGS))} or as 'karras-8', or a blend of two of them, as in "
            f"'trailing + angle' or '0.7 trailing + 0.3 angle' (got {spacing!r})"
        )
    if given and abs(sum(given) - 1) > 1e-9:
        raise ValueError(f"has the weights {' and '.join(f'{weight:g}' for weight in given)}, which must add up to 1")
    return {name: 1 / len(found) if weight is None else weight for name, weight in found.items()}


def written(spacing: str) -> str:
    """In its only form, in which a noise path gives it back: "trailing + angle", "0.7 trailing + 0.3 angle"."""
    parts = weights(spacing)
    return " + ".join(parts if {*parts.values()} <= {0.5, 1} else [f"{part:g} {name}" for name, part in parts.items()])


class GridTable(StrictModel):
    """`[grid]`: which times a sampler of S steps visits.

    Attributes:
        spacing: "trailing" (begins at the noise), "leading" (as CompVis), "linspace", "angle" (equal steps of
            atan2(σ, α)), "karras" (even in (σ/α)^(1/7)), "karras-8" (diffusers' Karras grid of 8 steps, or of another
            number, and its times for fewer), or a mean: "trailing + angle", "0.7 trailing + 0.3 angle".
        start: the noisiest time used. "auto": the last time for v- and x-prediction and for leading grids; otherwise,
            for ε-prediction, the noisiest time at which σ/α, which multiplies the error of ε, is at most 20. "late": at
            most 2.5 for ε-, and 10 for other predictions, for a student that learns to begin there with the noise with
            which its teacher began earlier.
    """

    spacing: Annotated[str, AfterValidator(written)] = "trailing"
    start: Literal["auto", "late"] | Annotated[int, Field(ge=0)] = "auto"


def most_steps(spacing: str) -> float:
    """The most steps of a grid, for a spacing with "karras-R" in it; infinite for any other."""
    return min(int(name.partition("-")[2] or 0) or inf for name in weights(spacing))


def blend(spacing: str, times: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """The weighted mean of the times of its spacings, [S], float64.

    Args:
        spacing: as in `weights`.
        times: a spacing's name -> its times, [S], float64, not rounded.
    """
    parts = [weight * times(name) for name, weight in weights(spacing).items()]
    return torch.stack(parts).sum(0)


def shares(steps: int) -> torch.Tensor:
    """k/S for k = S, S − 1, …, 1: [S], float64. Every other one of 2 S is one of S, bit for bit.

    Raises:
        GridError: S is less than 1.
    """
    if steps < 1:
        raise GridError(f"a grid of {steps} steps needs at least 1")
    return torch.arange(steps, 0, -1, dtype=torch.float64) / steps


def karras(spacing: str, steps: int, low: float, high: float) -> torch.Tensor:
    """σ/α of a grid with the spacing "karras" or "karras-R", without clean data, noise first: [S], float64.

    (σ/α)^(1/ρ) is k/S of the way from `low` to `high`, so that grids nest. diffusers' `use_karras_sigmas` puts the S
    values on the same curve at (k − 1)/(S − 1), so that the last one is `low` and no grid has the times of another.
    "karras-R" is diffusers' grid at R steps, and every R/S-th of its times at S.

    Raises:
        GridError: "karras-R" has not so many times.
    """
    share = shares(steps)
    if of := int(spacing.partition("-")[2] or 0):
        if steps > of:
            raise GridError(f'a grid of {steps} steps with the spacing "{spacing}" has {of} times; take fewer steps')
        share = (share * of - 1) / (of - 1)
    bottom, top = low ** (1 / RHO), high ** (1 / RHO)
    ratio: torch.Tensor = (bottom + share * (top - bottom)) ** RHO
    return ratio


def ended(times: torch.Tensor, clean: float, spacing: str) -> torch.Tensor:
    """A grid: its times, [S], and the time of clean data.

    Raises:
        GridError: they do not fall, because there are not so many times.
    """
    grid = torch.cat([times, torch.tensor([clean], dtype=times.dtype)])
    if (twice := grid[1:][grid.diff() >= 0]).numel():
        raise GridError(
            f'a grid of {len(times)} steps with the spacing "{spacing}" would have the time {twice[0].item():g} twice; '
            'take fewer steps, or the spacing "trailing"'
        )
    return grid


def check_real_time_grid(spacing: str, start: float | str | None, names: Iterable[str]) -> None:
    """Check `[grid]` for a path whose grids all begin at its noisiest time: there z is just scaled noise.

    Args:
        spacing, start: the table's.
        names: the spacings that the path has.

    Raises:
        DistillkitError: it asks for another spacing or start.
    """
    if other := [name for name in weights(spacing) if name.partition("-")[0] not in names]:
        quoted = ", ".join(f'"{name}"' for name in names)
        raise DistillkitError(
            f'grid.spacing: is "{spacing}", and grids of the model\'s noise path, which begin at pure noise, cannot be '
            f'"{min(other)}"; expected one of {quoted}, or a blend of two of them'
        )
    if start not in ("auto", "late", None):
        raise DistillkitError(
            f"grid.start: is {start}, and the grids of the model's noise path begin at its noisiest time; leave it out"
        )
