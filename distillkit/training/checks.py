"""Checks that need the loaded model: of what it says of itself, of grids and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from distillkit.config import Components, GridTable
from distillkit.config.grid_checks import check_spacing, wanted_steps
from distillkit.config.score_checks import check_samplers
from distillkit.errors import DistillkitError, GridError, Mistake
from distillkit.interfaces import Data, GuidanceInput, Model, ModelSpec, Sampler
from distillkit.noise import NoisePath, PredictionType, TablePath
from distillkit.registry import check_tensor, checked, described, whole, wrong
from distillkit.training.guidance_checks import check_adapter, check_guidance

NAMED = 10
"""Classes that a message names, if there are more."""
ROUNDING = 1e-5
"""Relative, of products of float32."""


def check_model(components: Components, path: NoisePath, earlier: Sequence[Components] = ()) -> list[Mistake]:
    """The mistakes in a config that can be seen once the model is loaded.

    Args:
        components: the run's; the model is loaded.
        path: the model's noise path, with the config's grid.
        earlier: the phases before this one.
    """
    spec, evaluation = components.model.spec, components.evaluation
    mistakes = {}
    for key, steps in wanted_steps(components):
        try:
            _check_grid(components.model, path, steps)
            if evaluation.sampler == "consistency" and key in ("evaluation.steps", "evaluation.export_steps"):
                path.consistency_times(steps)
        except GridError as error:
            mistakes[key] = Mistake(key, str(error))
    # Later phases start from a trained network, which an adapter fits.
    for mistake in [
        *check_samplers(evaluation, spec),
        *check_spacing(components),
        *check_guidance(components, earlier),
        *([] if earlier else check_adapter(components)),
    ]:
        mistakes[mistake.key] = mistake
    return [*mistakes.values()]


def check_spec(model: Model) -> None:
    """Check what a model says of itself once it is loaded.

    Raises:
        DistillkitError: it is not what the interface says.
    """
    network, spec = getattr(model, "network", None), getattr(model, "spec", None)
    if not isinstance(network, torch.nn.Module):
        raise wrong(model, "network", described(network), "a torch.nn.Module, set by load()")
    if other := {weight.dtype for weight in network.parameters() if weight.requires_grad} - {torch.float32}:
        raise wrong(model, "network", f"in {other.pop()}", "float32 weights; the engine chooses the precision")
    if not isinstance(spec, ModelSpec):
        raise wrong(model, "spec", described(spec), "a ModelSpec, set by load()")
    if not isinstance(spec.path, NoisePath):
        raise wrong(model, "spec.path", described(spec.path), "a NoisePath")
    if spec.prediction not in (known := get_args(PredictionType)):
        raise wrong(model, "spec.prediction", described(spec.prediction), " or ".join(map(repr, known)))
    checked(model, "spec.label", spec.label, isinstance(spec.label, str) and spec.label != "", "the model's name")
    shape, samplers, taken = spec.sample_shape, spec.samplers, spec.guidance_input
    sizes = isinstance(shape, Sequence) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)
    checked(model, "spec.sample_shape", shape, sizes, "(C, H, W), whole numbers from 1")
    if spec.classes is not None:
        whole(model, "spec.classes", spec.classes, "classes", 1)
    known = get_args(Sampler)
    some = isinstance(samplers, tuple) and samplers and all(name in known for name in (*samplers, spec.sampler))
    checked(model, "spec.samplers", samplers, bool(some), f"some of {', '.join(map(repr, known))}")
    named = isinstance(spec.solvers, tuple) and all(isinstance(name, str) for name in spec.solvers)
    checked(model, "spec.solvers", spec.solvers, named, "a tuple of names, which solver() knows")
    for name in ("supports_guidance", "untrained"):
        checked(model, f"spec.{name}", getattr(spec, name), isinstance(getattr(spec, name), bool), "True or False")
    if taken is not None:
        ranged = isinstance(taken, GuidanceInput) and 0 <= taken.low <= taken.high
        checked(model, "spec.guidance_input", taken, ranged, "a GuidanceInput with 0 ≤ low ≤ high, or None")


def path_of(model: Model, grid: GridTable) -> NoisePath:
    """The model's noise path, with the config's grid.

    Raises:
        DistillkitError: the path has no such grid, or does not take it.
    """
    path = model.spec.with_grid(grid.spacing, grid.start).path
    if not isinstance(path, NoisePath):
        raise wrong(model, "spec.path.with_grid()", described(path), "a NoisePath")
    if path.spacing != grid.spacing or grid.start not in ("auto", "late", path.start):
        came = f'grids with the spacing "{path.spacing}" and the start {path.start}'
        expected = f'"{grid.spacing}" and {grid.start}, as [grid] says'
        raise wrong(model, "spec.path.with_grid()", came, expected)
    if isinstance(path, TablePath):
        table = path.alphas_cumprod
        if not (((table >= 0) & (table <= 1)).all() and (table[1:] <= table[:-1]).all()):
            raise wrong(model, "spec.path", "a TablePath whose ᾱ rises or leaves [0, 1]", "ᾱ that falls from 1 to 0")
    return path


def _check_grid(model: Model, path: NoisePath, steps: int) -> None:
    """Check the times of a grid, and α and σ there.

    Raises:
        GridError: the path has no grid of so many steps.
        DistillkitError: the grid is none.
    """
    what, times = f"spec.path.grid({steps})", path.grid(steps)
    if not (isinstance(times, torch.Tensor) and times.shape == (steps + 1,)):
        raise wrong(model, what, described(times), f"{steps + 1} times")
    ends = times[0] <= path.start and times[-1] == path.clean
    if not (ends and (times[1:] <= times[:-1]).all()):
        came = f"times from {times[0].item():g} to {times[-1].item():g}"
        raise wrong(model, what, came, f"times that fall, from {path.start:g} at most to {path.clean:g}")
    alpha, sigma = path.alpha_sigma(times)
    for name, value in {"α": alpha, "σ": sigma}.items():
        shape = (steps + 1, 1, 1, 1)
        check_tensor(model, "spec.path.alpha_sigma()", value, shape, name, torch.float32, finite=True)
    # σ/α falls; without a division, as α may be 0.
    rises = sigma[1:] * alpha[:-1] > sigma[:-1] * alpha[1:] * (1 + ROUNDING)
    if rises.any() or alpha.min() < 0 or sigma.min() < 0 or alpha[-1] != 1 or sigma[-1] != 0:
        came = f"α {_few(alpha)} and σ {_few(sigma)} along a grid of {steps} steps"
        raise wrong(model, "spec.path.alpha_sigma()", came, "σ/α that falls to 0, and α = 1 at the end")


def _few(values: torch.Tensor) -> str:
    first, middle, last = (values.flatten()[i].item() for i in (0, len(values) // 2, -1))
    return f"{first:.3g} … {middle:.3g} … {last:.3g}"


def check_known(data: Data) -> None:
    """Check what data that are set up say of themselves.

    Raises:
        DistillkitError: it is not what the interface says.
    """
    whole(data, "__len__()", data.__len__(), "images", 1)  # len() itself would raise a TypeError
    classes, names = data.classes, data.class_names
    if classes is not None:
        whole(data, "classes", classes, "classes", 1)
    if names is not None:
        fits = isinstance(names, Sequence) and len(names) == classes and all(isinstance(name, str) for name in names)
        checked(data, "class_names", names, fits, f"{classes} names, as `classes` says, or None")


def check_data(data: Data, model: Model) -> None:
    """Check that the data's images and classes fit the model.

    Raises:
        DistillkitError: the images have another size, or the labels are not classes of the model.
    """
    data.check_shape(model)
    if model.spec.classes is None:
        return
    if data.classes is None and not model.spec.supports_guidance:
        raise DistillkitError(
            f"data: the images of '{data.name}' have no labels, and the model is conditioned on {model.spec.classes} "
            'classes, none of which means "no class"; give labelled images, or name that class in model.null_class'
        )
    if data.classes is not None and data.classes > model.spec.classes:
        names = data.class_names or ()
        some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        raise DistillkitError(
            f"data: the images of '{data.name}' have {data.classes} classes{f' ({some})' if some else ''}, and the "
            f"model {model.spec.classes}"
        )
