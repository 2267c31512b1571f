"""Jumps of trajectories that the teacher generates before the first update, and that are stored on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake
from distillkit.files import readable_bytes
from distillkit.interfaces import Data, JumpBatch, LevelSource, Model, PrecomputingSource, Stage, Teacher
from distillkit.noise import Condition, NoisePath, Predictor
from distillkit.noise.grids import written
from distillkit_cache import making
from distillkit_cache.store import Store, grid_of, teacher_of


class CachedTrajectories(LevelSource, PrecomputingSource):
    """Random jumps of trajectories that the undistilled teacher generates from noise to data (Luhman & Luhman 2021).

    The trajectories are generated before the first update, with as many steps as each stage's grid, and later runs with
    the same teacher use them again. The noise, class and guidance scale of trajectory i depend on (`seed`, i) alone, so
    a run that was stopped while it generated them continues with the same ones.
    """

    name = "cached-trajectories"
    command_options: ClassVar[Mapping[str, str]] = {"spacing": "spacing"}
    gives = frozenset({"landing"})

    class Options(LevelSource.Options):
        """
        Attributes:
            trajectories: number of trajectories, for each number of steps N of the schedule.
            folder: where they are stored, relative to the working directory. Each kind of trajectory has a folder of
                its own in there, and runs that need the same ones share them.
            max_gigabytes: the disk space that they may take, in 10⁹ bytes.
            shard: trajectories per file. They are generated in one batch, with N evaluations.
            order: of the teacher's solver: 1 is DDIM, 2 DPM-Solver++(2M), which is more exact with as many steps.
            spacing: of the teacher's own grid, as `grid.spacing`, which then begins at the noisiest time, wherever the
                student's grids begin; needs `levels`. Default: the student's grids.
            levels: numbers of steps: every sample has a jump of a grid of n steps, for an n that is drawn from them, so
                that a batch has jumps of all sizes. At most as many as the teacher's jumps, N / `target.stride`.
                Default: that number alone.
            seed: of their noise. It is independent of the run's seed, so that runs with other seeds share them.
        """

        trajectories: int = Field(10_000, ge=1)
        folder: Path = Path("trajectories")
        max_gigabytes: float = Field(10.0, gt=0)
        shard: int = Field(64, ge=1)
        seed: int = Field(0, ge=0)
        order: Literal[1, 2] = 1
        spacing: Annotated[str, AfterValidator(written)] | None = None

    options: Options

    @property
    def spacing(self) -> str | None:
        """The option of that name."""
        return self.options.spacing

    def check(self) -> Iterator[Mistake]:
        """The folder must be a folder, or not exist yet, and the options that go with `levels` must fit them."""
        options, folder = self.options, self.options.folder
        if options.spacing is not None and not self.levels:
            yield Mistake("spacing", "is for jumps of several sizes: give source.levels, or leave it out")
        yield from super().check()
        if folder.exists() and not folder.is_dir():
            yield Mistake("folder", f"{folder} is a file; give a folder, which need not exist yet")

    def evaluations_before(self, stages: Sequence[Stage]) -> int:
        """N per shard."""
        return sum(steps * self._shards for steps, _ in dict.fromkeys(map(self._grid, stages)))

    def setup(self, model: Model, data: Data | None) -> None:
        """Store the model, for the shapes of noise and for conditions."""
        self._model = model
        self._stores: dict[tuple[int, int], Store] = {}

    def prepare(
        self, stages: Sequence[Stage], student: Predictor, teacher: Teacher | None
    ) -> Sequence[Callable[[], None]]:
        """Generate the shards that are missing.

        Raises:
            DistillkitError: the existing shards are damaged, or the disk space is too small.
        """
        walker = self.required(teacher, "a teacher")
        options, model = self.options, self._model
        begin = partial(making.begin, self, model, options.seed)
        grids = list(dict.fromkeys(map(self._grid, stages)))
        self._check_room({grid: making.size(begin(0), grid[0] // grid[1]) for grid in grids})

        def fill(store: Store, shard: int, grid: tuple[int, int]) -> None:
            begun = [begin(i) for i in self._indices(shard)]
            made = making.make(begun, walker, path, student.device, *grid, options.order)
            # One process after the other, because all write the manifest.
            for writer in range(distributed.world_size()):
                write = partial(store.write, shard, made) if distributed.rank() == writer else lambda: None
                distributed.on_all_ranks(write, store.folder)

        path = self._teacher_path(student.path)
        work, made_by = [], teacher_of(student, walker) | self._conditions()
        for steps, stride in grids:
            origin = made_by | grid_of(path, steps) | {"stride": stride, "order": options.order}
            store = Store(options.folder, f"steps-{steps}-stride-{stride}-order-{options.order}", origin)
            self._stores[steps, stride] = store
            missing = distributed.on_main_process(partial(self._missing, store))
            work += [
                partial(fill, store, shard, (steps, stride)) for shard in distributed.split_between_processes(missing)
            ]
        return work

    def _teacher_path(self, path: NoisePath) -> NoisePath:
        """The noise path with the grids on which the teacher walks."""
        return path if self.spacing is None else path.teacher_grid(self.spacing)

    def _grid(self, stage: Stage) -> tuple[int, int]:
        """The teacher's steps in a stage, and how many of them lie between two states that are stored."""
        # Between two steps of the solver, other numbers of steps have their states inside each of them.
        return stage.steps, 1 if self.levels else stage.stride

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
        steps, stride = self._grid(stage)
        self._store, self._path = self._stores[steps, stride], path
        # [states]: the times of those that are stored.
        self._times = self._teacher_path(path).grid(steps)[::stride]
        if self._times[0] < (second := path.grid(max(self.levels or (1,)))[1]):
            raise DistillkitError(
                f"source.spacing: the teacher's grid begins at {self._times[0]:g}, and the student's second time is "
                f"{second:g}; leave it out, or set it to a spacing that begins at the noise"
            )
        # Every level's jumps, one level after the other: their times, [n, S + 1]; and by level, where its jumps begin.
        self._levels = self.levels or (stage.jumps,)
        jumps = [path.grid(n).unfold(0, 2, 1) for n in self.levels]
        self._jumps = torch.cat(jumps or [path.grid(stage.steps).unfold(0, stage.stride + 1, stage.stride)])
        self._first = torch.zeros(max(self._levels) + 1, dtype=torch.long)
        self._first[list(self._levels)] = torch.tensor([0, *self._levels[:-1]]).cumsum(0)
        self._start = self._jumps[0, 0]

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """Random jumps of random trajectories."""
        batch = self.global_batch
        drawn = torch.randint(self.options.trajectories, (batch,), generator=generator)
        level = self.draw_levels(generator, self._levels, self.level_weights or (1.0,))
        jump = self._first[level] + (torch.rand(batch, generator=generator) * level).long()
        times = self._jumps[self.shard(jump)].T.contiguous()
        z, landing, condition = self._read(self.shard(drawn).tolist(), times[0], times[-1])
        return self.with_levels(JumpBatch(z, times, condition, landing=landing), self.shard(level))

    def _read(
        self, trajectories: Sequence[int], begin: torch.Tensor, end: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Condition]:
        """The states of trajectories, [B], at two times, [B] each, and their conditions.

        A state between two stored ones is on the teacher's own step from one to the other, with its x̂: on the way, a
        step of the solver goes through it. Where the student begins, it is given noise, which is the trajectory's.
        """
        shards, rows = zip(*(divmod(index, self.options.shard) for index in trajectories), strict=True)
        tensors = [self._store.read(shard) for shard in shards]
        states = []
        for t in (begin, end):
            noise = t == self._start
            # [B]: the step, from the stored state `before`, in which the time lies.
            step = (self._times >= t.unsqueeze(1)).sum(1).clamp(max=len(self._times) - 1) - 1
            step = step.masked_fill(noise, 0)
            before, after = making.steps_of(tensors, rows, step.tolist())
            since, until = self._times[step], self._times[step + 1]
            between = self._path.ddim(before, self._path.invert_ddim(before, after, since, until), since, t)
            inside, ended = (t < since) & (t > until) & ~noise, (t == until) & ~noise
            stored = torch.where(ended.view(-1, 1, 1, 1), after, before)
            states.append(torch.where(inside.view(-1, 1, 1, 1), between, stored))
        return states[0], states[1], making.condition_of(tensors, rows)
