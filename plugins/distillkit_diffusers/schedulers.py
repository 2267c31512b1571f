"""Every field of the supported schedulers' configs: used, refused, or harmless."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any

import diffusers

from distillkit.errors import DistillkitError, Mistake
from distillkit.sampling import TIMESTEP_SCALING


@dataclass(frozen=True)
class Fields:
    """What becomes of each field of some classes' configs.

    Attributes:
        classes: the names of the classes in diffusers.
        used: fields that the noise path, its grids or the network's inputs follow.
        refused: fields with only some supported values: those, and what any other would mean.
        harmless: fields that cannot change what distillkit does, each with the reason.
    """

    classes: tuple[str, ...]
    used: frozenset[str]
    refused: Mapping[str, tuple[tuple[Any, ...], str]]
    harmless: Mapping[str, str]


BETAS = frozenset(
    {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
        "prediction_type",
    }
)
"""The fields of a noise schedule, and what the network predicts."""

IN_EVERY_CLASS = BETAS - {"rescale_betas_zero_snr"} | {"_class_name"}
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


def _of(classes: tuple[str, ...], *used: str, **refused: tuple[tuple[Any, ...], str]) -> Fields:
    """Classes with betas that have further fields in use, or refused."""
    taken = {key: why for key, why in _HARMLESS.items() if key not in (*used, *refused)}
    return Fields(classes, BETAS | set(used), _REFUSED | refused, taken)


TABLES = (
    _of(("DDIMScheduler", "DDIMParallelScheduler"), "timestep_spacing", "steps_offset"),
    _of(("DPMSolverMultistepScheduler",), "timestep_spacing"),
    _of(
        ("LCMScheduler",),
        "original_inference_steps",
        timestep_scaling=((TIMESTEP_SCALING,), "the boundary scalings of consistency sampling are others"),
    ),
    _of(
        (
            "DDPMScheduler",
            "DDPMParallelScheduler",
            "DEISMultistepScheduler",
            "DPMSolverSDEScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
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
        frozenset(
            {
                "num_train_timesteps",
                "shift",
                "shift_terminal",
                "use_dynamic_shifting",
                "time_shift_type",
                "base_shift",
                "max_shift",
                "base_image_seq_len",
                "max_image_seq_len",
            }
        ),
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
    frozenset(
        {"num_train_timesteps", "prediction_type", "rho", "sigma_data", "sigma_max", "sigma_min", "sigma_schedule"}
    ),
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


def class_of(config: Mapping[str, Any]) -> str:
    """The name of a config's class."""
    return str(config.get("_class_name", "DDPMScheduler"))


def check(config: Mapping[str, Any], given: Mapping[str, Any], supported: tuple[Fields, ...]) -> Iterator[Mistake]:
    """Mistakes in a scheduler's config.

    Args:
        config: as in scheduler_config.json.
        given: the part of it that the option `scheduler` gives. Its fields must be known; diffusers ignores any other
            field of a folder.
        supported: the classes that the family has.
    """
    name = class_of(config)
    fields = next((one for one in supported if name in one.classes), None)
    if fields is None:
        known = ", ".join(one for group in supported for one in group.classes)
        yield Mistake("scheduler", f"is a {name}; expected one of {known} (scheduler._class_name)")
        return
    # A class's own fields are looked up only if they matter, because that imports diffusers.
    own = frozenset() if given.keys() <= IN_EVERY_CLASS else _parameters(name)
    for key in given:
        grouped = key in fields.used | fields.refused.keys() | fields.harmless.keys()
        # A class whose package is missing says nothing about its fields.
        if not key.startswith("_") and not (grouped and (not own or key in own)):
            yield Mistake(f"scheduler.{key}", f"is no field of a {name}; leave it out")
    for key, (taken, means) in fields.refused.items():
        clips = key == "clip_sample" and config.get("_class_name") in CLIPS_BY_DEFAULT
        found = config.get(key, clips or taken[0])
        if found not in taken and key in _parameters(name):
            yield Mistake(
                f"scheduler.{key}",
                f"is {json.dumps(found)}: {means}; to use the network without it: "
                f"--set model.scheduler.{key}={json.dumps(taken[0])}",
            )


def make(config: Mapping[str, Any], supported: tuple[Fields, ...]) -> Any:
    """diffusers' scheduler of a config, with the fields that are used, and defaults for all others.

    Raises:
        DistillkitError: diffusers does not take them, or lacks a package that the class needs.
    """
    name = class_of(config)
    [used] = [one.used for one in supported if name in one.classes]
    try:
        return getattr(diffusers, name)(**{key: config[key] for key in used & _parameters(name) & config.keys()})
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DistillkitError(f"scheduler: diffusers does not take this {name}: {reason}") from error


def _parameters(name: str) -> frozenset[str]:
    """The fields of a class. One whose package is missing has none."""
    parameters = signature(getattr(diffusers, name).__init__).parameters.values()
    return frozenset(one.name for one in parameters if one.kind is Parameter.POSITIONAL_OR_KEYWORD) - {"self"}
