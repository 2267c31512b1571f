"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from distillkit import distributed
from distillkit.config import series
from distillkit.interfaces import TargetBatch, Update
from distillkit.noise.seeds import generator
from distillkit.training.assemble import Parts
from distillkit.training.interrupt import StopRequest
from distillkit.training.journal import Journal
from distillkit.training.progress import Reporter


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        update: updates made.
        stage: index of the stage in the plan.
        done: updates made in the stage.
        seconds: time spent in updates.
        evaluated: the update of the newest evaluation that was not broken off.
        scores: scores by name, one entry for each evaluation in the stage.
        rollbacks: how often the run diverged and went back; each time halved the learning rate.
    """

    update: int = 0
    stage: int = 0
    done: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    scores: list[dict[str, float]] = field(default_factory=list)
    rollbacks: int = 0


@dataclass
class Hooks:
    """What happens beside the updates.

    Attributes:
        log: told the journal's new lines at every log point.
        checkpoint_is_due: whether a checkpoint is due after an update.
        checkpoint: told the position then.
        evaluate: asked for scores by name when an evaluation is due; None if the user broke it off.
        stop: whether to stop after the update that is being made.
    """

    log: Callable[[list[dict[str, Any]]], None]
    checkpoint_is_due: Callable[[int], bool]
    checkpoint: Callable[[Position], None]
    evaluate: Callable[[int], dict[str, float] | None]
    stop: StopRequest


def train(parts: Parts, position: Position, journal: Journal, reporter: Reporter, hooks: Hooks) -> None:
    """Make the run's updates from `position` on, in place."""
    settings, plan = parts.settings, parts.plan
    engine, source, schedule = settings.engine, settings.source, settings.schedule
    teacher, target = settings.teacher, settings.target
    every, last = settings.evaluation.every, parts.updates

    def evaluation_is_due() -> bool:
        return bool(every) and position.update % every == 0 and position.evaluated < position.update < last

    def evaluate() -> None:
        scores = hooks.evaluate(position.update)
        if scores is not None:
            position.evaluated = position.update
            position.scores.append(scores)

    # One that was broken off is made up for, so that a schedule that watches it decides alike.
    if evaluation_is_due():
        evaluate()
    while True:
        planned = plan[position.stage]
        if position.done == 0:
            source.start_stage(planned.stage, planned.stride, settings.model.path)
            if target is not None:
                target.start_stage(planned.stage, planned.stride, settings.model.path)
        while position.done < planned.stage.updates and not schedule.is_over(
            planned.stage, position.done, series(settings, planned, position.scores)
        ):
            began = time.perf_counter()
            before = parts.student.evaluations.count
            # Dropout, where there is any, draws from the global state, in each process something else.
            purpose = "network" if distributed.is_main_process() else f"network {distributed.rank()}"
            torch.manual_seed(generator(settings.run.seed, position.update, purpose).initial_seed())

            learning_rate = 0.5**position.rollbacks * settings.optimizer.learning_rate_at(
                (position.update, last), (position.done, planned.stage.updates)
            )

            # One update: batches are drawn and learned from until the engine has enough of them.
            update: Update | None = None
            losses: list[torch.Tensor] = []
            sizes: list[torch.Tensor] = []
            while update is None:
                this = (settings.run.seed, position.update, len(losses))
                seed = generator(*this, "target").initial_seed()
                step = replace(source.draw(generator(*this, "source")), update=position.update, seed=seed)
                loss, aim, size = engine.forward(step.to(engine.device))
                update = engine.update(loss, learning_rate)
                losses.append(loss.detach())
                sizes.append(size)
                if aim is not None:
                    source.advance(_spoiled(aim))
            parts.student.moved = update.made
            if teacher is not None:
                teacher.after_update(parts.student)
            if target is not None:
                target.after_update(parts.student)

            position.update += 1
            position.done += 1
            position.seconds += time.perf_counter() - began
            line = {
                "update": position.update,
                "stage": position.stage,
                "steps": planned.stage.steps,
                "learning_rate": learning_rate,
                "evaluations": parts.student.evaluations.count - before,
                "seconds": round(position.seconds, 4),
            }
            loss, size = torch.stack(losses).mean(), torch.stack(sizes).mean()
            made = torch.ones_like(loss) if update.made is None else update.made
            journal.add(line, {"loss": loss, "grad_norm": update.grad_norm, "x0_rms": size, "made": made})
            number = position.update
            evaluating = evaluation_is_due()
            checkpoint = hooks.checkpoint_is_due(number)
            # A network that has diverged is neither scored nor kept: flushing raises.
            if evaluating or checkpoint or number % settings.run.log_every == 0 or number == last:
                hooks.log(journal.flush())
            if evaluating:
                evaluate()
            if checkpoint:
                hooks.checkpoint(position)
            reporter.advance(1)
            # Whoever was told to stop, all stop after the same update.
            hooks.stop.asked = distributed.any_rank(hooks.stop.asked)
            if hooks.stop.asked:
                hooks.log(journal.flush())
                return

        if position.done < planned.stage.updates:
            number, given = position.stage + 1, planned.stage.updates
            reporter.say(f"stage {number} (N = {planned.stage.steps}) is over after {position.done} of {given} updates")
        # The position stays in the last stage: with more updates, it would go on there.
        if position.stage + 1 == len(plan):
            break
        if teacher is not None:
            with engine.whole():
                teacher.end_stage(parts.student)
        position.stage += 1
        position.done = 0
        position.scores = []
    hooks.log(journal.flush())


def _spoiled(aim: TargetBatch) -> torch.Tensor:
    """Where trajectories go on; not a number for samples whose target is not finite, so that their walks begin anew."""
    finite = aim.x0.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
    return aim.z_next.where(finite, torch.nan)
