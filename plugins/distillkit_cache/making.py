"""Generates trajectories: the initial noise, and the teacher's steps from there.

Shapes: n trajectories, J jumps each, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch

from distillkit.interfaces import Model, Source, Teacher
from distillkit.noise import Condition, NoisePath
from distillkit.sampling import generator, walk

STATES = "states"


def begin(source: Source, model: Model, seed: int, index: int) -> dict[str, torch.Tensor]:
    """The start of trajectory `index`: its noise, as its only state, [1, 1, C, H, W], and the tensors of its condition.

    They depend on (seed, index) alone, and differ from the noise of the samples that are scored.
    """
    draw = generator(seed, index, "trajectory")
    noise = torch.randn(1, 1, *model.spec.sample_shape, generator=draw)
    condition = model.spec.before_training(source.draw_condition(model, draw, count=1))
    return {STATES: noise} | condition.tensors()


def make(
    begun: Sequence[Mapping[str, torch.Tensor]],
    teacher: Teacher,
    path: NoisePath,
    device: torch.device,
    steps: int,
    stride: int,
    order: int,
) -> dict[str, torch.Tensor]:
    """Take `steps` steps of the path's grid with the teacher, in one batch, with a solver of this order (see `walk`).

    Returns:
        The states at the ends of jumps of `stride` steps, noise first, [n, J + 1, C, H, W], and the condition's
        tensors, [n, ...], on the CPU.
    """
    tensors = {key: torch.cat([one[key] for one in begun]) for key in begun[0]}
    condition = Condition.from_tensors(tensors).to(device)
    noise = tensors[STATES][:, 0].to(device)
    states = islice(walk(teacher.predict, path, noise, condition, steps, order), None, None, stride)
    return tensors | {STATES: torch.stack([state.cpu() for state in states], 1)}


def size(begun: Mapping[str, torch.Tensor], jumps: int) -> int:
    """Bytes that one trajectory takes."""
    return sum(tensor.nbytes for tensor in begun.values()) + jumps * begun[STATES].nbytes


def steps_of(
    shards: Sequence[Mapping[str, torch.Tensor]], rows: Sequence[int], steps: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """The states before and after steps of trajectories, [n, C, H, W] each.

    Args:
        shards, rows: for each, the shard, and the row in it.
        steps: the number of the state before the step.
    """
    where = zip(shards, rows, steps, strict=True)
    return torch.stack([shard[STATES][row, step : step + 2] for shard, row, step in where]).unbind(1)


def condition_of(shards: Sequence[Mapping[str, torch.Tensor]], rows: Sequence[int]) -> Condition:
    """The conditions of trajectories; for each, the shard, and the row in it."""
    names = [key for key in shards[0] if key != STATES]
    tensors = {key: torch.stack([shard[key][row] for shard, row in zip(shards, rows, strict=True)]) for key in names}
    return Condition.from_tensors(tensors)
