"""Generates trajectories: the initial noise, and the teacher's steps from there.

Shapes: n trajectories, J jumps each, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch

from distillkit.interfaces import Model, Source, Teacher
from distillkit.noise import Condition, Predictor
from distillkit.sampling import generator, walk

STATES = "states"


def begin(source: Source, model: Model, seed: int, index: int) -> dict[str, torch.Tensor]:
    """The start of trajectory `index`: its noise, as its only state, [1, 1, C, H, W], and the tensors of its condition.

    They depend on (seed, index) alone, and differ from the noise of the samples that are scored.
    """
    draw = generator(seed, index, "trajectory")
    noise = torch.randn(1, 1, *model.spec.sample_shape, generator=draw)
    return {STATES: noise} | source.draw_condition(model, draw, count=1).tensors()


def make(
    begun: Sequence[Mapping[str, torch.Tensor]],
    student: Predictor,
    teacher: Teacher,
    steps: int,
    stride: int,
    order: int,
) -> dict[str, torch.Tensor]:
    """Take `steps` steps with the teacher, in one batch, with a solver of this order (see `walk`).

    Returns:
        The states at the ends of jumps of `stride` steps, noise first, [n, J + 1, C, H, W], and the condition's
        tensors, [n, ...], on the CPU.
    """
    tensors = {key: torch.cat([one[key] for one in begun]) for key in begun[0]}
    device = student.device
    condition = Condition.from_tensors(tensors).to(device)
    noise = tensors[STATES][:, 0].to(device)
    states = islice(walk(teacher.predict, student.path, noise, condition, steps, order), None, None, stride)
    return tensors | {STATES: torch.stack([state.cpu() for state in states], 1)}


def size(begun: Mapping[str, torch.Tensor], jumps: int) -> int:
    """Bytes that one trajectory takes."""
    return sum(tensor.nbytes for tensor in begun.values()) + jumps * begun[STATES].nbytes


def pick(
    shards: Sequence[Mapping[str, torch.Tensor]], rows: Sequence[int], begins: Sequence[int], ends: Sequence[int]
) -> tuple[torch.Tensor, Condition]:
    """Read jumps of trajectories.

    Args:
        shards, rows: for each jump, the shard, and the row in it.
        begins, ends: the numbers of the states where it begins and lands.

    Returns:
        The states where the jumps begin and land, [2, n, C, H, W], and their conditions.
    """
    where = zip(shards, rows, begins, ends, strict=True)
    states = [torch.stack([shard[STATES][row, begin], shard[STATES][row, end]]) for shard, row, begin, end in where]
    names = [key for key in shards[0] if key != STATES]
    tensors = {key: torch.stack([shard[key][row] for shard, row in zip(shards, rows, strict=True)]) for key in names}
    return torch.stack(states, 1), Condition.from_tensors(tensors)
