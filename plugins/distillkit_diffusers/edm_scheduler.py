"""EDMEulerScheduler's config: read as a noise path, and written for the grid that was trained. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit.noise import EdmPath
from distillkit_diffusers import schedulers
from distillkit_diffusers.card import Sampling

TRAINED = "_distillkit"
"""A key of exported configs, which diffusers keeps and does not read: what the path was before it was written."""


def read(config: dict[str, Any]) -> EdmPath:
    """The noise path: with the grids of diffusers' own, or, where the config is an export's, with the trained ones.

    Raises:
        DistillkitError: the config has another schedule than diffusers.
    """
    schedule = config.get("sigma_schedule", "karras")
    if schedule not in ("karras", "exponential"):
        raise DistillkitError(f"scheduler: sigma_schedule is '{schedule}'; expected karras or exponential")
    if (kind := config.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        raise DistillkitError(f"scheduler: prediction_type is '{kind}'; expected epsilon or v_prediction")
    before = config.get(TRAINED, {})
    return EdmPath(
        before.get("sigma_min", config.get("sigma_min", 0.002)),
        config.get("sigma_max", 80.0),
        config.get("rho", 7.0) if schedule == "karras" else None,
        config.get("num_train_timesteps", 1000),
        "trailing" if before else "linspace",
    )


def write(path: EdmPath, config: dict[str, Any], steps: int) -> Any:
    """An EDMEulerScheduler whose grid of `steps` steps is the path's own.

    Its grids go evenly, in σ^(1/ρ) or log σ, from σ_max to σ_min. A trailing grid's last but one σ is the σ_min with
    which that is the trailing grid.
    """

    known = schedulers.known_to(diffusers.EDMEulerScheduler, config)
    last = path.sigma(path.grid(steps)[-2:-1]).item()
    scheduler = diffusers.EDMEulerScheduler(**known | {"sigma_min": last, "final_sigmas_type": "zero"})
    if path.spacing == "trailing":
        scheduler.register_to_config(**{TRAINED: {"sigma_min": path.sigma_min}})
    return scheduler


def describe(steps: int) -> Sampling:
    """What a model card says of `write`'s scheduler."""
    fit = f"exact at\n  {steps} steps (at other numbers diffusers spaces the noise levels differently)"
    return Sampling("deterministic (Euler)", fit)


def preconditioned(
    network: Any, z: torch.Tensor, sigma: torch.Tensor, config: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """x̂ = c_skip z + c_out F(c_in z, c_noise), [B, C, H, W] (Karras et al. 2022, table 1); σ is [B, 1, 1, 1].

    With "v_prediction" F has the other sign, as diffusers has it.
    """
    data = config.get("sigma_data", 0.5)
    root = (sigma.square() + data**2).sqrt()
    out = sigma * data / root
    if config.get("prediction_type") == "v_prediction":
        out = -out
    noise = sigma.flatten().log() / 4
    x0: torch.Tensor = (data / root).square() * z + out * network(z / root, noise, **inputs, return_dict=False)[0]
    return x0
