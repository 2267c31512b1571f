"""Samples that walk from noise to data, a jump a draw: what the sources `trajectory` and `rollout` share."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from distillkit import distributed
from distillkit.interfaces import Data, LevelSource, Model, Stage
from distillkit.noise import Condition, NoisePath


class Walks(LevelSource):
    """A source whose samples each stand at a state of their walk, and begin a new one when it is over."""

    def setup(self, model: Model, data: Data | None) -> None:
        """Remember the model whose noise and conditions are drawn."""
        self._model = model

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """All samples are about to begin a walk."""
        self._steps, self._stride, self._initial_scale = stage.steps, stage.stride, path.initial_scale
        # Where the samples of all processes stand, as new noise is drawn for all when any has arrived: the jumps of
        # their walks, of which there are none yet, those that they have made, and those that are left.
        self._level = torch.zeros(self.global_batch, dtype=torch.long)
        self._position = torch.zeros_like(self._level)
        self._left = torch.zeros_like(self._level)
        # This process's samples: which of all they are, their z and conditions, of which there are none yet.
        self._mine = self.shard(torch.arange(self.global_batch))
        self._z = torch.zeros(len(self._mine), 1, 1, 1)
        self._condition = Condition()
        # The noise at which their walks began, and how many jumps a restart has put them behind `_position`. These stay
        # on the device: reading there whether a state is finite would make the host wait.
        self._start = self._z
        self._behind = torch.zeros(len(self._mine), dtype=torch.long)

    def begin_walks(self, generator: torch.Generator) -> None:
        """New noise and conditions for the samples whose walk is over."""
        over = self._left == 0
        if not over.any():
            return
        shape, device = self._model.spec.sample_shape, self._z.device
        noise = self.shard(torch.randn(len(over), *shape, generator=generator)) * self._initial_scale
        z, condition = noise.to(device), self.draw_condition(self._model, generator)
        if device.type != "cpu":
            condition = condition.to(device)
        mine = over[self._mine].to(device)
        # The first time there is nothing to keep.
        self._condition = condition if over.all() else _mix(mine, condition, self._condition)
        mask = mine.view(-1, 1, 1, 1)
        self._z = torch.where(mask, z, self._z)
        self._start = torch.where(mask, z, self._start.to(device))
        self._behind = self._behind.to(device).masked_fill(mine, 0)
        level, first = self._draw_levels(generator), not self._level.any()
        cut = torch.arange(len(over)) * level // len(over) if first and not self.sequential else 0
        self._level = torch.where(over, level, self._level)
        self._position[over] = 0
        self._left = torch.where(over, level - cut, self._left)

    def _draw_levels(self, generator: torch.Generator) -> torch.Tensor:
        """The number of jumps of new walks, [B] of all processes."""
        if not self.levels:
            return torch.full_like(self._level, self._steps // self._stride)
        weights = self.level_weights
        # The first walks, which are cut short as if they had begun before, count by their samples.
        if self._level.any():
            weights = tuple(weight / level for weight, level in zip(weights, self.levels, strict=True))
        return self.draw_levels(generator, self.levels, weights)

    def jump_and_level(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of its walk's jumps each of this process's samples makes next, and of how many: two of [B]."""
        device = self._z.device
        return self.on_device(device, self._position) - self._behind, self.on_device(device, self._level)

    def move(self, jumps: torch.Tensor) -> None:
        """Count jumps that are made: how many of its walk's each sample makes, [B] of all processes."""
        self._position = torch.where(self._left == jumps, 0, self._position + jumps)
        self._left -= jumps

    def advance(self, z_next: torch.Tensor) -> None:
        """Go on from there, or restart a walk whose state is not finite."""
        device, finite = z_next.device, z_next.isfinite().flatten(1).all(1)
        if self._z.device != device:
            self._condition = self._condition.to(device)
        self._z = torch.where(finite.view(-1, 1, 1, 1), z_next, self._start.to(device))
        self._behind = torch.where(finite, self._behind.to(device), self.on_device(device, self._position))

    def on_device(self, device: torch.device, values: torch.Tensor) -> torch.Tensor:
        """Those of this process's samples, of [B] of all. They are not pinned memory, so the copy has read them when
        this returns."""
        return values[self._mine].to(device, non_blocking=True)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Where every sample stands."""
        mine = {"z": self._z, "start": self._start, "behind": self._behind} | self._condition.tensors()
        return {"level": self._level, "position": self._position, "left": self._left} | {
            key: distributed.all_gather(value) for key, value in mine.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from there."""
        self._level, self._position, self._left = (state[key] for key in ("level", "position", "left"))
        mine = {key: self.shard(value) for key, value in state.items()}
        self._z, self._start, self._behind = mine["z"], mine["start"], mine["behind"]
        self._condition = Condition.from_tensors(mine)


def _mix(mask: torch.Tensor, new: Condition, old: Condition) -> Condition:
    """`new` where the mask [B] is set, `old` elsewhere; all on one device."""
    fresh, kept = new.tensors(), old.tensors()
    mixed = {
        key: torch.where(mask.view(-1, *[1] * (value.dim() - 1)), value, kept[key]) for key, value in fresh.items()
    }
    return Condition.from_tensors(mixed)
