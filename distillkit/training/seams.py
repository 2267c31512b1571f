"""Checks what components give, the first time that they give it: shape, type, device, finite values and range.

Such a check waits for the device, which an update must not do. So a check replaces a method by one that checks the next
result and then puts the method back. Later calls take no longer than without checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from distillkit import distributed
from distillkit.config import Components
from distillkit.interfaces import (
    Data,
    Engine,
    JumpBatch,
    Landing,
    Loss,
    Model,
    Source,
    Stage,
    Stateful,
    TargetBatch,
    Update,
)
from distillkit.noise import Condition, Prediction, Predictor
from distillkit.registry import check_tensor, checked, described, wrong
from distillkit.training.checks import check_known
from distillkit.training.watch import watch

WATCHED = 20
"""Stages of fewer updates are checked only where a run begins, as the checks would be a part of what they cost."""
TOLERANCE = 0.01
"""How far values may lie outside their range, for the rounding of whoever computed them."""


def check_engine(engine: Engine) -> None:
    """Check an engine that is set up."""
    device = getattr(engine, "device", None)
    checked(engine, "device", device, isinstance(device, torch.device), "a torch.device, set by setup()")
    if distributed.world_size() > 1 and not distributed.active:
        joined = f"{distributed.world_size()} processes that do not know of one another"
        raise wrong(engine, "setup()", joined, "a process group: call distributed.init, or use one process")
    checked(engine, "layout", engine.layout, isinstance(engine.layout, str), "a few words, or 'replicated'")
    for name in ("autocast", "averaged", "unsharded"):

        def context(value: Any, what: str = f"{name}()") -> None:
            checked(engine, what, value, isinstance(value, AbstractContextManager), "a context manager")

        watch(engine, name, context)


def watch_model(model: Model, student: Predictor) -> None:
    """Check the next results of a model that is loaded and of its network."""

    def output(value: Any, network: torch.nn.Module, z: torch.Tensor, *_: Any) -> None:
        finite = bool(z.isfinite().all())
        check_tensor(model, "forward()", value, z.shape, "as z", device=z.device, finite=finite)

    def encoded(value: Any, images: torch.Tensor) -> None:
        # That they have another size may be the pictures' fault: see `Data.check_shape`.
        check_tensor(model, "encode()", value, (len(images), None, None, None), "samples", finite=True)

    def decoded(value: Any, samples: torch.Tensor) -> None:
        check_tensor(model, "decode()", value, (len(samples), None, None, None), "images [B, C, H, W]")

    def condition(value: Any, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> None:
        _check_condition(model, "condition()", value, count)
        if guidance is not None and value.guidance is None and model.spec.guidance_input is None:
            raise wrong(model, "condition()", "a Condition without guidance", "the scales that it was called with")
        if value.guidance is not None and (value.null is None or value.null.keys() != value.inputs.keys()):
            raise wrong(model, "condition()", "guidance without null inputs", "a null input for each of the inputs")

    watch(student, "forward_network", output, part=model)
    watch(model, "encode", encoded, part=model)
    watch(model, "decode", decoded, part=model)
    watch(model, "condition", condition, part=model)


def watch_data(data: Data) -> None:
    """Check what is known of data that are set up, and their next batch."""
    check_known(data)

    def batch(value: Any, indices: torch.Tensor) -> None:
        pair = isinstance(value, tuple) and len(value) == 2
        checked(data, "batch()", value, pair, "a pair: images and labels")
        (images, labels), count = value, len(indices)
        check_tensor(
            data, "batch()", images, (count, None, None, None), "images [B, C, H, W]", torch.float32, finite=True
        )
        low, high = images.min().item(), images.max().item()
        if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
            raise wrong(data, "batch()", f"images from {low:g} to {high:g}", "values in [-1, 1]")
        if (labels is None) != (data.classes is None):
            there = "no labels" if labels is None else "labels"
            raise wrong(data, "batch()", there, f"what `classes` says, which is {data.classes}")
        if labels is not None and data.classes is not None:
            check_tensor(data, "batch()", labels, (count,), "a label for each image", torch.int64)
            if labels.min() < 0 or labels.max() >= data.classes:
                came = f"labels from {labels.min().item()} to {labels.max().item()}"
                raise wrong(data, "batch()", came, f"0 to {data.classes - 1}, as `classes` is {data.classes}")

    def drawn(value: Any, count: int, _: torch.Generator) -> None:
        check_tensor(data, "draw()", value, (count,), "an index for each sample", torch.int64)
        if value.min() < 0 or value.max() >= len(data):
            raise wrong(data, "draw()", f"{value.min()} to {value.max()}", f"indices below len(), which is {len(data)}")

    watch(data, "batch", batch, part=data)
    watch(data, "draw", drawn)


def watch_stage(components: Components, student: Predictor, stage: Stage, first: bool) -> None:
    """Check the next results of all that takes part in an update.

    Args:
        components: the components, ready for the stage.
        student: the network that is trained.
        stage: the stage.
        first: whether the run begins here, so that nothing may be NaN or infinite. Later it may have diverged.
    """
    watch_model(components.model, student)
    if components.data is not None and "data" in components.source.gives:
        watch_data(components.data)
    _watch_source(components.source, components.model, stage, first)
    for loss in components.losses:
        _watch_loss(loss, first)
    if components.teacher is not None:
        teacher = components.teacher

        def predicted(value: Any, z: torch.Tensor, *_: Any) -> None:
            checked(teacher, "predict()", value, isinstance(value, Prediction), "a Prediction")
            check_tensor(teacher, "predict()", value.x0, z.shape, "x0, as z", device=z.device, finite=first)

        watch(teacher, "predict", predicted, part=teacher)
    if components.critic is not None:
        critic = components.critic

        def own_loss(value: Any, landing: Landing, *_: Any) -> None:
            z = landing.z
            finite = first and bool(z.isfinite().all())
            check_tensor(critic, "loss()", value, (len(z),), "a number for each sample", device=z.device, finite=finite)
            if not value.requires_grad:
                raise wrong(critic, "loss()", "numbers without a gradient", "numbers that depend on its network")

        watch(critic, "loss", own_loss, part=critic)
    if components.target is not None:
        target = components.target

        def computed(value: Any, jumps: JumpBatch, student: Prediction, *_: Any) -> None:
            checked(target, "compute()", value, isinstance(value, TargetBatch), "a TargetBatch")
            viewed = None if value.view is None else value.view(student).x0
            for name, tensor in {"x0": value.x0, "z_next": value.z_next, "view(student).x0": viewed}.items():
                if tensor is not None or name != "view(student).x0":
                    shape, device = jumps.z.shape, jumps.z.device
                    check_tensor(target, "compute()", tensor, shape, f"{name}, as z", device=device, finite=first)

        watch(target, "compute", computed, part=target)

    def is_over(value: Any, *_: Any) -> None:
        checked(components.schedule, "is_over()", value, isinstance(value, bool | np.bool_), "True or False")

    watch(components.schedule, "is_over", is_over)
    _watch_engine(components.engine, components.optimizer.accumulate, student)
    parts = (components.source, components.data, components.teacher, components.target, components.critic)
    for part in (components.engine, *parts):
        if part is not None:
            _watch_state(part)


def _watch_source(source: Source, model: Model, stage: Stage, first: bool) -> None:
    count, shape = source.options.batch, model.spec.sample_shape

    def drawn(jumps: Any, _: torch.Generator) -> None:
        checked(source, "draw()", jumps, isinstance(jumps, JumpBatch), "a JumpBatch")
        check_tensor(source, "draw()", jumps.z, (count, *shape), "z", torch.float32, finite=first)
        for name, given in {"data": "data", "noise": "data", "landing": "landing"}.items():
            if given in source.gives:
                tensor = getattr(jumps, name)
                check_tensor(source, "draw()", tensor, (count, *shape), name, torch.float32, finite=first)
        times = jumps.times
        # Between the ends of stored jumps of several sizes, nothing is known of a path.
        rows = 2 if source.levels and "landing" in source.gives else stage.stride + 1
        if not (isinstance(times, torch.Tensor) and times.shape == (rows, count)):
            expected = f"times of the shape [{rows}, {count}], for jumps of {stage.stride} steps"
            raise wrong(source, "draw()", f"times {described(times)}", expected)
        if not (times[1:] <= times[:-1]).all():  # nor is anything so that is NaN
            raise wrong(source, "draw()", f"times {times[:, 0].tolist()}", "times that fall, towards clean data")
        _check_condition(source, "draw()", jumps.condition, count)
        if distributed.active:
            others = distributed.all_gather(jumps.z[None].cpu())
            if any(torch.equal(others[0], other) for other in others[1:]):
                expected = "samples of each process's own: draw for `global_batch` and keep `shard(…)`"
                raise wrong(source, "draw()", "the same samples in several processes", expected)

    watch(source, "draw", drawn)


def _watch_loss(loss: Loss, first: bool) -> None:
    def terms(value: Any, jumps: JumpBatch, student: Prediction, goal: Any) -> None:
        known = not isinstance(goal, torch.Tensor) or bool(goal.isfinite().all())
        finite = first and known and bool(student.x0.isfinite().all())
        z = jumps.z
        check_tensor(loss, "per_sample()", value, (len(z),), "a number for each sample", device=z.device, finite=finite)
        if torch.is_grad_enabled() and not value.requires_grad:
            raise wrong(loss, "per_sample()", "numbers without a gradient", "numbers that depend on the student's")

    watch(loss, "per_sample", terms, part=loss)


def _watch_engine(engine: Engine, accumulate: int, student: Predictor) -> None:
    batches = 0

    def output(value: Any, *_: Any) -> None:
        if not (isinstance(value, tuple) and len(value) == 6):
            expected = "what the module gave: the loss, the target, a size, the samples' losses, shares and the landing"
            raise wrong(engine, "forward()", described(value), expected)
        check_tensor(engine, "forward()", value[0], (), "the loss")

    def updated(value: Any, *_: Any) -> bool:
        nonlocal batches
        batches += 1
        if value is None and batches < accumulate:
            return False
        expected = f"an Update after {accumulate} batches (optimizer.accumulate)"
        checked(engine, "update()", value, isinstance(value, Update), expected)
        check_tensor(engine, "update()", value.grad_norm, (), "grad_norm")
        check_tensor(engine, "update()", value.made, (), "made: 1 or 0")
        if distributed.active and engine.layout == "replicated":
            sums = torch.stack([weight.detach().double().sum() for weight in student.network.parameters()])
            others = distributed.all_gather(sums[None].cpu())
            # Weights that are not finite are the divergence guard's to report.
            if others.isfinite().all() and not (others == others[0]).all():
                raise wrong(engine, "update()", "other weights in each process", "the same ones: average the gradients")
        return True

    watch(engine, "forward", output)
    watch(engine, "update", updated)


def _watch_state(part: Stateful | Engine) -> None:
    def state(value: Any) -> None:
        checked(part, "state_dict()", value, isinstance(value, Mapping), "tensors by name")
        for name, tensor in value.items():
            if not (isinstance(name, str) and isinstance(tensor, torch.Tensor)):
                raise wrong(part, "state_dict()", f"{described(name)}: {described(tensor)}", "tensors by name")

    watch(part, "state_dict", state)


def _check_condition(part: Model | Source, what: str, condition: Any, count: int) -> None:
    checked(part, what, condition, isinstance(condition, Condition), "a Condition")
    for name, tensor in condition.tensors().items():
        if not (isinstance(tensor, torch.Tensor) and tensor.shape[:1] == (count,)):
            raise wrong(part, what, f"{name} {described(tensor)}", f"a tensor of {count} samples, [{count}, …]")
