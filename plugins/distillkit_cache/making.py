"""Makes trajectories: where each begins, and the teacher's walk from there.

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
    """Where trajectory `index` begins: its noise, as its only state, [1, 1, C, H, W], and its condition's tensors.

    They depend on (seed, index) alone, and have nothing to do with the pictures that are scored.
    """
    draw = generator(seed, index, "trajectory")
    noise = torch.randn(1, 1, *model.spec.sample_shape, generator=draw)
    return {STATES: noise} | source.draw_condition(model, draw, count=1).tensors()


def make(
    begun: Sequence[Mapping[str, torch.Tensor]], student: Predictor, teacher: Teacher, steps: int, stride: int
) -> dict[str, torch.Tensor]:
    """Walk `steps` DDIM steps with the teacher, in one batch.

    Returns:
        states at the ends of jumps of `stride` steps, noise first, [n, J + 1, C, H, W], and the condition's tensors,
        [n, ...], on the CPU.
    """
    tensors = {key: torch.cat([one[key] for one in begun]) for key in begun[0]}
    device = student.device
    condition = Condition.from_tensors(tensors).to(device)
    noise = tensors[STATES][:, 0].to(device)
    states = islice(walk(teacher.predict, student.path, noise, condition, steps), None, None, stride)
    return tensors | {STATES: torch.stack([state.cpu() for state in states], 1)}


def size(begun: Mapping[str, torch.Tensor], jumps: int) -> int:
    """Bytes that one trajectory takes."""
    return sum(tensor.nbytes for tensor in begun.values()) + jumps * begun[STATES].nbytes


def pick(
    shards: Sequence[Mapping[str, torch.Tensor]], rows: Sequence[int], jumps: Sequence[int]
) -> tuple[torch.Tensor, Condition]:
    """Jumps of trajectories that were made.

    Args:
        shards, rows, jumps: of each, where it is and which of its jumps.

    Returns:
        where the jumps begin and land, [2, n, C, H, W], and their conditions.
    """
    states = [shard[STATES][row, jump : jump + 2] for shard, row, jump in zip(shards, rows, jumps, strict=True)]
    names = [key for key in shards[0] if key != STATES]
    tensors = {key: torch.stack([shard[key][row] for shard, row in zip(shards, rows, strict=True)]) for key in names}
    return torch.stack(states, 1), Condition.from_tensors(tensors)
