"""Jumps of trajectories that the teacher generates before the first update, and that are stored on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake
from distillkit.files import readable_bytes
from distillkit.interfaces import Data, JumpBatch, Model, PrecomputingSource, Stage, Teacher
from distillkit.noise import NoisePath, Predictor
from distillkit_cache import making
from distillkit_cache.store import Store, grid_of, teacher_of


class CachedTrajectories(PrecomputingSource):
    """Random jumps of trajectories that the undistilled teacher generates from noise to data (Luhman & Luhman 2021).

    The trajectories are generated before the first update, with as many steps as each stage's grid, and later runs with
    the same teacher use them again. The noise, class and guidance scale of trajectory i depend on (`seed`, i) alone, so
    a run that was stopped while it generated them continues with the same ones.
    """

    name = "cached-trajectories"
    gives = frozenset({"landing"})

    class Options(PrecomputingSource.Options):
        """
        Attributes:
            trajectories: number of trajectories, for each number of steps N of the schedule.
            folder: where they are stored, relative to the working directory. Runs with the same teacher share it.
            max_gigabytes: the disk space that they may take, in 10⁹ bytes.
            shard: trajectories per file. They are generated in one batch, with N evaluations.
            order: of the teacher's solver: 1 is DDIM, 2 DPM-Solver++(2M), which is more exact with as many steps.
            levels: numbers of steps: every sample's jump is 1/n of its trajectory, for an n that is drawn from them, so
                that a batch has jumps of all sizes. Each must divide the jumps of a stage, N / `target.stride`.
                Default: that number alone.
            seed: of their noise. It is independent of the run's seed, so that runs with other seeds share them.
        """

        trajectories: int = Field(10_000, ge=1)
        folder: Path = Path("trajectories")
        max_gigabytes: float = Field(10.0, gt=0)
        shard: int = Field(64, ge=1)
        seed: int = Field(0, ge=0)
        order: Literal[1, 2] = 1
        levels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None

    options: Options

    @property
    def levels(self) -> tuple[int, ...]:
        """The option of that name."""
        return self.options.levels or ()

    def check(self) -> Iterator[Mistake]:
        """The folder must be a folder, or not exist yet."""
        folder = self.options.folder
        if folder.exists() and not folder.is_dir():
            yield Mistake("folder", f"{folder} is a file; give a folder, which need not exist yet")

    def evaluations_before(self, stages: Sequence[Stage]) -> int:
        """N per shard."""
        return sum(steps * self._shards for steps, _ in _grids(stages))

    def setup(self, model: Model, data: Data | None) -> None:
        """Store the model, for the shapes of noise and for conditions."""
        self._model = model
        self._stores: dict[tuple[int, int], Store] = {}

    def prepare(
        self, stages: Sequence[Stage], student: Predictor, teacher: Teacher | None
    ) -> Sequence[Callable[[], None]]:
        """Generate the shards that are missing.

        Raises:
            DistillkitError: the existing shards are another teacher's or damaged, or the disk space is too small.
        """
        walker = self.required(teacher, "a teacher")
        options, model = self.options, self._model
        begin = partial(making.begin, self, model, options.seed)
        self._check_room({grid: making.size(begin(0), grid[0] // grid[1]) for grid in _grids(stages)})

        def fill(store: Store, shard: int, grid: tuple[int, int]) -> None:
            made = making.make([begin(i) for i in self._indices(shard)], student, walker, *grid, options.order)
            # One process after the other, because all write the manifest.
            for writer in range(distributed.world_size()):
                write = partial(store.write, shard, made) if distributed.rank() == writer else lambda: None
                distributed.on_all_ranks(write, store.folder)

        work, made_by = [], teacher_of(student, walker) | self._conditions()
        for steps, stride in _grids(stages):
            origin = made_by | grid_of(student.path, steps) | {"stride": stride}
            name = f"steps-{steps}-stride-{stride}"
            if options.order > 1:
                name, origin = f"{name}-order-{options.order}", origin | {"order": options.order}
            store = Store(options.folder / name, origin)
            self._stores[steps, stride] = store
            missing = distributed.on_main_process(partial(self._missing, store))
            work += [
                partial(fill, store, shard, (steps, stride)) for shard in distributed.split_between_processes(missing)
            ]
        return work

    def trial(self, folder: Path) -> CachedTrajectories:
        """A source with one shard of trajectories."""
        few = min(self.options.trajectories, self.options.shard)
        return CachedTrajectories(self.options.model_copy(update={"folder": folder, "trajectories": few}))

    def _missing(self, store: Store) -> list[int]:
        """The shards that are missing from a store."""
        return [shard for shard in range(self._shards) if not store.has(shard, len(self._indices(shard)))]

    def _conditions(self) -> dict[str, Any]:
        """What the trajectories depend on, besides the teacher."""
        drawn = self.options.model_dump(mode="json", include={"guidance", "seed", "shard"})
        return {"shape": list(self._model.spec.sample_shape), "classes": self._model.spec.classes} | drawn

    @property
    def _shards(self) -> int:
        return ceil(self.options.trajectories / self.options.shard)

    def _indices(self, shard: int) -> range:
        """The trajectories of a shard."""
        first = shard * self.options.shard
        return range(first, min(first + self.options.shard, self.options.trajectories))

    def _check_room(self, sizes: dict[tuple[int, int], int]) -> None:
        options = self.options
        one, room = sum(sizes.values()), options.max_gigabytes * 1e9
        if options.trajectories * one > room:
            raise DistillkitError(
                f"source.trajectories: {options.trajectories} take {readable_bytes(options.trajectories * one)}, and "
                f"source.max_gigabytes is {options.max_gigabytes:g}: {int(room // one)} fit; reduce the number, or "
                "raise source.max_gigabytes"
            )

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Use the trajectories of the stage's grid."""
        self._store = self._stores[stage.steps, stage.stride]
        # [J + 1]: where the stage's jumps begin and land. [J, stride + 1]: their fine steps.
        grid = path.grid(stage.steps)
        self._times, self._fine = grid[:: stage.stride], grid.unfold(0, stage.stride + 1, stage.stride)
        self._levels = torch.tensor(self.levels or (stage.jumps,))

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """Random jumps of random trajectories."""
        batch, jumps = self.global_batch, len(self._times) - 1
        drawn = torch.randint(self.options.trajectories, (batch,), generator=generator)
        anywhere = self.shard(torch.randint(jumps, (batch,), generator=generator))
        level = self.shard(self._levels[torch.randint(len(self._levels), (batch,), generator=generator)])
        # A jump of level n spans J/n stored ones, and begins at a multiple of that.
        span = jumps // level
        begin = anywhere // span * span
        ends = torch.stack([begin, begin + span])
        shards, rows = zip(*(divmod(index, self.options.shard) for index in self.shard(drawn).tolist()), strict=True)
        (z, landing), condition = making.pick([self._store.read(shard) for shard in shards], rows, *ends.tolist())
        if not self.levels:
            return JumpBatch(z, self._fine[begin].T.contiguous(), condition, landing=landing)
        return JumpBatch(z, self._times[ends], condition, landing=landing, step_size=1 / level)


def _grids(stages: Sequence[Stage]) -> list[tuple[int, int]]:
    """The different grids of a plan: number of steps, and steps per jump."""
    return list(dict.fromkeys((stage.steps, stage.stride) for stage in stages))
