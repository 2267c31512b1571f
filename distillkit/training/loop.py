"""The updates of a run: its stages one after the other, and one update from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import cos, pi

import torch

from distillkit import distributed
from distillkit.config import Components, series
from distillkit.errors import DistillkitError
from distillkit.interfaces import Critic, JumpBatch, Landing, OptimizerTable, Stage, Update
from distillkit.sampling import generator
from distillkit.training.assemble import Parts
from distillkit.training.journal import Line
from distillkit.training.seams import WATCHED, watch_stage


@dataclass
class Position:
    """How far a run is; a checkpoint holds it.

    Attributes:
        update: updates made.
        stage: index of the stage in the plan.
        done: updates made in the stage.
        seconds: time spent in updates.
        evaluated: the update of the newest evaluation that was completed.
        scores: scores by name, one entry for each evaluation in the stage.
        rollbacks: how often the run diverged and went back to a checkpoint; each time halves the learning rate.
    """

    update: int = 0
    stage: int = 0
    done: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    scores: list[dict[str, float]] = field(default_factory=list)
    rollbacks: int = 0

    def roll_back_to(self, earlier: Position) -> None:
        """Take an earlier position's values, in place, and count the rollback."""
        vars(self).update(vars(earlier) | {"rollbacks": self.rollbacks + 1})


class NoBatch(DistillkitError):
    """The data could not be read."""


def updates(parts: Parts, position: Position, say: Callable[[str], None]) -> Iterator[Line]:
    """Make the updates that are left, one per iteration, and move `position` along.

    Between two iterations the caller may evaluate the student and append to `position.scores`, which a schedule may
    watch, or stop iterating.

    Args:
        parts: ready to run, in the state of `position`.
        position: changed in place.
        say: prints a line for the user.

    Raises:
        NoBatch: the data could not be read; all is as it was after the update before.
    """
    components, plan = parts.components, parts.plan
    engine, source, teacher, target = components.engine, components.source, components.teacher, components.target
    total, began = parts.updates, position.update
    while True:
        stage = plan[position.stage]
        if position.done == 0:
            source.start_stage(stage, parts.student.path)
            if target is not None:
                target.start_stage(stage, parts.student.path)
        if position.update == began or stage.updates >= WATCHED:
            watch_stage(components, parts.student, stage, first=position.update == 0)
        while position.done < stage.updates:
            scores = series(components, stage, position.scores) if position.scores else []
            if scores and components.schedule.is_over(stage, position.done, scores):
                break
            yield _update(parts, position, stage, total)
        if position.done < stage.updates:
            say(
                f"stage {position.stage + 1} (N = {stage.steps}) is over after {position.done} of "
                f"{stage.updates} updates"
            )
        # The position stays in the last stage: with more updates, the run would go on there.
        if position.stage + 1 == len(plan):
            return
        if teacher is not None:
            with engine.unsharded():
                teacher.end_stage(parts.student)
        if components.optimizer.moments == "stage":
            engine.restart_moments()
        position.stage += 1
        position.done = 0
        position.scores = []


def _update(parts: Parts, position: Position, stage: Stage, total: int) -> Line:
    """Make one of the run's `total` updates."""
    components, student = parts.components, parts.student
    engine, source, teacher, target = components.engine, components.source, components.teacher, components.target
    critic = components.critic
    began, evaluations = time.perf_counter(), student.evaluations.count

    # Dropout draws from the global random state; each rank has its own.
    rank = distributed.rank() if distributed.active else 0
    dropout = generator(components.run.seed, position.update, f"network {rank}" if rank else "network")
    torch.manual_seed(dropout.initial_seed())

    learning_rate = 0.5**position.rollbacks * learning_rate_at(
        components.optimizer, (position.update, total), (position.done, stage.updates)
    )

    # Draw batches and learn from them until the engine has accumulated enough of them for an update.
    update: Update | None = None
    losses: list[torch.Tensor] = []
    sizes: list[torch.Tensor] = []
    shares: list[torch.Tensor] = []
    by_level: list[torch.Tensor] = []
    of_critic: list[tuple[torch.Tensor, Update | None]] = []
    # At first a critic learns alone.
    alone = critic is not None and position.update < critic.options.warmup * total
    while update is None:
        seed = (components.run.seed, position.update, len(losses))
        jumps = replace(_draw(components, seed), seed=seed, baked=components.baked)
        if components.baked:
            # A teacher that is renewed with the stages has the guidance inside from the second one on.
            inside = position.stage and teacher is not None and teacher.follows_student == "stage"
            condition = components.model.spec.before_training(jumps.condition)
            jumps = replace(jumps, condition=jumps.student_condition if inside else condition)
        if student.step_input and jumps.step_size is None:
            share = 1 / stage.steps if target is None else target.step_size(stage)
            jumps = replace(jumps, step_size=torch.full((len(jumps.z),), share))
        with torch.set_grad_enabled(not alone):
            loss, target_batch, size, each, split, landing = engine.forward(jumps.to(engine.device), position.update)
        if not alone:
            update = engine.update(loss, learning_rate)
        elif len(losses) + 1 == components.optimizer.accumulate:
            update = Update(torch.zeros_like(loss), torch.ones_like(loss))
        losses.append(loss.detach())
        sizes.append(size)
        shares.append(split)
        if jumps.levels:
            by_level.append(_by_level(each, jumps.levels, source.levels))
        if landing is not None and critic is not None:
            of_critic += _teach_critic(components, critic, landing, position, stage, total)
        if target_batch is not None and source.follows == "target":
            source.advance(_next_z(target_batch.x0, target_batch.z_next))
        elif landing is not None:
            source.advance(_next_z(landing.z, landing.z))

    # Averages follow the student.
    if teacher is not None and not alone:
        teacher.after_update(student, update)
    if target is not None and not alone:
        target.after_update(student, update)

    position.update += 1
    position.done += 1
    position.seconds += time.perf_counter() - began
    loss, size = torch.stack(losses).mean(), torch.stack(sizes).mean()
    values = {
        "update": position.update,
        "stage": position.stage,
        "steps": stage.steps,
        "learning_rate": learning_rate,
        "evaluations": student.evaluations.count - evaluations,
        "seconds": round(position.seconds, 4),
    }
    if position.rollbacks:
        values["rollbacks"] = position.rollbacks
    levels = dict(zip(source.levels, torch.stack(by_level).sum(0), strict=True)) if by_level else {}
    scalars = {"loss": loss, "grad_norm": update.grad_norm, "x0_rms": size, "made": update.made}
    if len(components.losses) > 1:
        names = [loss.name for loss in components.losses]
        keys = [f"gradient/{name}" + (f"-{i}" if names.count(name) > 1 else "") for i, name in enumerate(names)]
        scalars |= dict(zip(keys, torch.stack(shares).mean(0), strict=True))
    if of_critic:
        learned = [made for _, made in of_critic if made is not None]
        scalars["critic_loss"] = torch.stack([its for its, _ in of_critic]).mean()
        scalars["critic_grad_norm"] = torch.stack([made.grad_norm for made in learned]).mean()
        scalars["made"] = torch.stack([update.made, *(made.made for made in learned)]).min()
    return Line(values, scalars, levels)


def _teach_critic(
    components: Components, critic: Critic, landing: Landing, position: Position, stage: Stage, total: int
) -> Iterator[tuple[torch.Tensor, Update | None]]:
    """Make the critic's updates that learn from a batch of the student's; yield their losses, and the updates."""
    engine = critic.required(components.critic_engine, "an engine")
    learning_rate = 0.5**position.rollbacks * learning_rate_at(
        critic.options.optimizer, (position.update, total), (position.done, stage.updates)
    )
    for number in range(critic.options.updates):
        loss = engine.forward(landing, number)
        yield loss.detach(), engine.update(loss, learning_rate)


def _by_level(losses: torch.Tensor, mine: tuple[int, ...], levels: tuple[int, ...]) -> torch.Tensor:
    """For each of a source's levels, the sum of the losses, [B], of the samples that have it, and their number: [L, 2].

    Args:
        losses: of the samples. On the device, which the host does not wait for.
        mine: the samples' levels.
        levels: the source's.
    """
    has = torch.tensor([[level == own for own in mine] for level in levels]).to(losses.device, non_blocking=True)
    return torch.stack([torch.where(has, losses, 0.0).sum(1), has.sum(1)], 1)


def _draw(components: Components, seed: tuple[int, int, int]) -> JumpBatch:
    """The source's batch for (the run's seed, update, batch of the update).

    A file that one process cannot read ends the draw in all of them.
    """
    source, data, random = components.source, components.data, generator(*seed, "source")
    if data is None or "data" not in source.gives:
        return source.draw(random)
    run_seed, update, batch = seed
    before = (update * components.optimizer.accumulate + batch) * source.global_batch

    def draw() -> JumpBatch:
        data.seek(run_seed, before)
        return source.draw(random)

    try:
        return distributed.on_all_ranks(draw)
    except DistillkitError as error:
        raise NoBatch(str(error)) from None


def learning_rate_at(table: OptimizerTable, run: tuple[int, int], stage: tuple[int, int]) -> float:
    """The learning rate of an update.

    Args:
        table: the config's `[optimizer]`.
        run: the update's index in the run, from 0, and the number of updates in the run.
        stage: its index in its stage, from 0, and the number of updates in the stage.
    """
    peak, final = table.learning_rate, table.final_learning_rate
    if final is not None:
        update, updates = stage if table.decay == "stage" else run
        done = update / updates
        peak = final + (peak - final) * (1 - done if table.shape == "linear" else 0.5 * (1 + cos(pi * done)))
    return peak * min(1.0, (run[0] + 1) / table.warmup) if table.warmup else peak


def _next_z(x0: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Where trajectories go on, [B, C, H, W]: NaN for samples whose target is not finite, which the source restarts."""
    finite = x0.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
    return z.where(finite, torch.nan)
