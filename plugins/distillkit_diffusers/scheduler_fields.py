"""Every field of the supported schedulers' configs: used, with the values it may have, refused, or harmless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distillkit.sampling import TIMESTEP_SCALING
from distillkit_diffusers import scheduler_values as values
from distillkit_diffusers.scheduler_values import Rule


@dataclass(frozen=True)
class Fields:
    """What becomes of each field of some classes' configs.

    Attributes:
        classes: the names of the classes in diffusers.
        used: fields that the noise path, its grids or the network's inputs follow, and the values that each may have.
        refused: fields with only some supported values: those, and what any other would mean.
        harmless: fields that cannot change what distillkit does, each with the reason.
    """

    classes: tuple[str, ...]
    used: Mapping[str, Rule]
    refused: Mapping[str, tuple[tuple[Any, ...], str]]
    harmless: Mapping[str, str]


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""The values of `beta_schedule` that all schedulers take."""
SPACINGS = ("leading", "linspace", "trailing")

BETAS: Mapping[str, Rule] = {
    "num_train_timesteps": values.times,
    "beta_start": values.number(0, 1),
    "beta_end": values.number(0, 1),
    "beta_schedule": values.one_of(*BETA_SCHEDULES),
    "trained_betas": values.trained_betas,
    "rescale_betas_zero_snr": values.zero_snr,
    "prediction_type": values.one_of("epsilon", "v_prediction", "sample"),
}
"""The fields of a noise schedule, and what the network predicts."""

IN_EVERY_CLASS = BETAS.keys() - {"rescale_betas_zero_snr"} | {"_class_name"}
CLIPS_BY_DEFAULT = ("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler")

_OFF = (False,)
_CHANGES_X = "the pipeline changes x̂ at every step, which distillkit does not"
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "clip_sample": (_OFF, _CHANGES_X),
    "thresholding": (_OFF, _CHANGES_X),
    "use_flow_sigmas": (_OFF, "the noise path is that of flow matching, and not one of betas"),
    "timestep_type": (("discrete",), "the network gets log σ/4 as its time, and not whole times"),
}

_STEPS = "distillkit takes deterministic steps on its own grids"
_CLEAN = "the last step of distillkit ends at clean data"
_GRID = "the grids of this class are not among distillkit's, which takes trailing ones unless [grid] says otherwise"
_OTHER = "has an effect only with a field that is refused"
_HARMLESS = (
    dict.fromkeys(
        (
            "algorithm_type",
            "corrector_order",
            "disable_corrector",
            "euler_at_final",
            "interpolation_type",
            "lambda_min_clipped",
            "lower_order_final",
            "noise_sampler_seed",
            "predict_x0",
            "predictor_order",
            "sigma_max",
            "sigma_min",
            "skip_prk_steps",
            "solver_order",
            "solver_p",
            "solver_type",
            "tau_func",
            "use_beta_sigmas",
            "use_exponential_sigmas",
            "use_karras_sigmas",
            "use_lu_lambdas",
            "variance_type",
        ),
        _STEPS,
    )
    | dict.fromkeys(("final_sigmas_type", "set_alpha_to_one"), _CLEAN)
    | dict.fromkeys(
        (
            "clip_sample_range",
            "dynamic_thresholding_ratio",
            "flow_shift",
            "sample_max_value",
            "shift_terminal",
            "time_shift_type",
            "use_dynamic_shifting",
        ),
        _OTHER,
    )
    | dict.fromkeys(("original_inference_steps", "steps_offset", "timestep_scaling", "timestep_spacing"), _GRID)
)


def _of(
    classes: tuple[str, ...],
    used: Mapping[str, Rule] | None = None,
    refused: Mapping[str, tuple[tuple[Any, ...], str]] | None = None,
) -> Fields:
    """Classes with betas that have further fields in use, or refused."""
    known, wrong = {**BETAS, **(used or {})}, {**_REFUSED, **(refused or {})}
    return Fields(classes, known, wrong, {key: why for key, why in _HARMLESS.items() if key not in (*known, *wrong)})


_SPACED: dict[str, Rule] = {"timestep_spacing": values.one_of(*SPACINGS)}
_SCALING = ((TIMESTEP_SCALING,), "the boundary scalings of consistency sampling are others")
TABLES = (
    _of(("DDIMScheduler", "DDIMParallelScheduler"), _SPACED | {"steps_offset": values.leading_offset}),
    _of(("DPMSolverMultistepScheduler",), _SPACED),
    _of(("LCMScheduler",), {"original_inference_steps": values.original_steps}, {"timestep_scaling": _SCALING}),
    _of(
        ("DDPMScheduler", "DDPMParallelScheduler"),
        {"beta_schedule": values.one_of(*BETA_SCHEDULES, "laplace", "sigmoid")},
    ),
    _of(("HeunDiscreteScheduler",), {"beta_schedule": values.one_of(*BETA_SCHEDULES, "exp")}),
    _of(
        (
            "DEISMultistepScheduler",
            "DPMSolverSDEScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "SASolverScheduler",
            "TCDScheduler",
            "UniPCMultistepScheduler",
        )
    ),
)
"""Variance-preserving schedules. A config without a class is read as that of a DDPMScheduler."""

_NOT_SHIFTED = (_OFF, "the grid's noise levels are not those of a shift")
FLOWS = (
    Fields(
        ("FlowMatchEulerDiscreteScheduler",),
        {
            "num_train_timesteps": values.times,
            "shift": values.positive,
            "shift_terminal": values.terminal,
            "use_dynamic_shifting": values.boolean,
            "time_shift_type": values.one_of("exponential", "linear"),
            "base_shift": values.dynamic(values.number(0, 100)),
            "max_shift": values.dynamic(values.number(0, 100)),
            "base_image_seq_len": values.dynamic(values.number(0)),
            "max_image_seq_len": values.dynamic(values.longest),
        },
        dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), _NOT_SHIFTED)
        | {
            "invert_sigmas": (_OFF, "the network's times begin at clean data"),
            "stochastic_sampling": (_OFF, "every step adds noise, which distillkit's do not"),
        },
        {},
    ),
)
"""Flow matching."""

_EDM = Fields(
    ("EDMEulerScheduler",),
    {
        "num_train_timesteps": values.times,
        "prediction_type": values.one_of("epsilon", "v_prediction"),
        "rho": values.positive,
        "sigma_data": values.positive,
        "sigma_max": values.largest_sigma,
        "sigma_min": values.positive,
        "sigma_schedule": values.one_of("karras", "exponential"),
    },
    {},
    {"final_sigmas_type": _CLEAN},
)
_SOLVER = ("algorithm_type", "euler_at_final", "lower_order_final", "solver_order", "solver_type")
_THRESHOLDS = ("dynamic_thresholding_ratio", "sample_max_value")
EDMS = (
    _EDM,
    replace(
        _EDM,
        classes=("EDMDPMSolverMultistepScheduler",),
        refused={"thresholding": _REFUSED["thresholding"]},
        harmless={**_EDM.harmless, **dict.fromkeys(_SOLVER, _STEPS), **dict.fromkeys(_THRESHOLDS, _OTHER)},
    ),
)
"""EDM's preconditioning."""
