"""Estimates the time and memory of a run on this machine, from a few updates and one batch of samples."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from distillkit import distributed
from distillkit.config import Settings, teacher_scales, teacher_solvers
from distillkit.evaluation import Pictures
from distillkit.interfaces import Engine, PrecomputingSource
from distillkit.registry import checked
from distillkit.terminal import Reporter
from distillkit.training.assemble import Parts, load, prepare, prepare_source
from distillkit.training.export import export
from distillkit.training.folder import RunFolder
from distillkit.training.loop import Position, updates
from distillkit.training.run import from_result

UPDATES = 4
"""Updates to run for each kind of stage. The first is not counted, because it also allocates."""


@dataclass(frozen=True)
class Measured:
    """The expected time of one phase.

    Attributes:
        before: seconds of the source's work before the first update.
        stages: seconds of the updates of each stage.
        scoring: seconds of sampling and feature extraction, in all evaluations together.
    """

    before: float
    stages: list[float]
    scoring: float


def measure(phases: Sequence[Settings]) -> tuple[list[Measured], int, str]:
    """Time each phase, in a temporary folder.

    Returns:
        The expected time of each phase; the peak memory in bytes (on a GPU, of torch's allocator; on a CPU, of the
        process); and the name of the device.

    Raises:
        DistillkitError: as at the beginning of a run.
    """
    reporter = Reporter(Console(stderr=True, quiet=True))
    # Initialises the device and the process group.
    engine = phases[0].components().engine
    engine.setup()
    with tempfile.TemporaryDirectory(prefix="distillkit-") as temporary:
        run_folder = RunFolder(Path(distributed.broadcast(temporary)))
        measured = [
            _phase(from_result(phase, run_folder.path, i), run_folder, i, reporter) for i, phase in enumerate(phases, 1)
        ]
    return measured, _memory(engine.device), str(engine.device)


def _phase(settings: Settings, run_folder: RunFolder, number: int, reporter: Reporter) -> Measured:
    parts = load(settings.components())
    before = 0.0
    missing, source = prepare(parts), parts.components.source
    if missing and isinstance(source, PrecomputingSource):
        trial = source.trial(run_folder.path / "source")
        checked(source, "trial()", trial, isinstance(trial, PrecomputingSource), "a PrecomputingSource")
        parts, seconds = _try_source(parts, trial)
        before = len(missing) * seconds
    # Stages with the same number of evaluations per update take the same time per update.
    kinds: dict[int, float] = {}
    stages = []
    for stage in parts.plan:
        if stage.updates and stage.evaluations not in kinds:
            short = replace(stage, updates=UPDATES)
            kinds[stage.evaluations] = _update(replace(parts, plan=[short]), reporter)
        stages.append(kinds[stage.evaluations] * stage.updates if stage.updates else 0.0)
    scoring = _scoring(parts)
    # The next phase loads it.
    pipeline = run_folder.path / "phases" / str(number) / "pipeline"
    distributed.on_main_process(lambda: pipeline.parent.mkdir(parents=True), pipeline.parent)
    export(parts, pipeline, [])
    return Measured(before, stages, scoring)


def _try_source(parts: Parts, source: PrecomputingSource) -> tuple[Parts, float]:
    """Do the work of a source before the first update.

    Returns:
        The parts with this source, and the seconds that one item of the work took.
    """
    components = parts.components
    parts = replace(parts, components=replace(components, source=source))
    work = prepare_source(parts)
    began = time.perf_counter()
    with torch.no_grad(), components.engine.averaged(), components.engine.autocast():
        for part in work:
            part()
    _finish(components.engine.device)
    return parts, (time.perf_counter() - began) / len(work)


def _update(parts: Parts, reporter: Reporter) -> float:
    """Seconds per update."""
    critic = parts.components.critic
    # After the updates in which a critic learns alone, which take less.
    position = Position(update=0 if critic is None else ceil(critic.options.warmup * parts.updates))
    seconds: list[float] = [line.values["seconds"] for line in updates(parts, position, reporter.say)]
    return median(after - before for before, after in pairwise(seconds))


def _scoring(parts: Parts) -> float:
    """Seconds for all the samples that a run scores."""
    components, evaluation = parts.components, parts.components.evaluation
    if not components.metrics or components.features is None:
        return 0.0
    components.features.setup(components.engine.device)
    pictures = Pictures(evaluation, components.model, components.engine.device, components.engine.autocast)
    batch = range(min(evaluation.batch, evaluation.samples))

    def seconds(steps: int) -> float:
        began = time.perf_counter()
        components.features.extract(pictures.draw(parts.student, steps, batch))  # type: ignore[union-attr]
        _finish(components.engine.device)
        return time.perf_counter() - began

    with components.engine.averaged():
        seconds(1)
        one, two = seconds(1), seconds(2)
    per_step, once = max(two - one, 0.0), max(2 * one - two, 0.0)
    return sum(samples * (steps * per_step + once) for steps, samples in _scored(parts)) / len(batch)


def _scored(parts: Parts) -> Iterator[tuple[int, int]]:
    """Yield (sampling steps, samples) for every score that the run takes."""
    components, evaluation = parts.components, parts.components.evaluation
    if evaluation.teacher and components.teacher is not None and not components.model.spec.untrained:
        # What was measured is the student. Guidance doubles the teacher's batch, unless the network takes the scale.
        taken = components.model.spec.guidance_input
        doubled = evaluation.guidance == 1 if taken is None else taken.new
        each = [1 + (doubled and scale != 1) for scale in teacher_scales(evaluation)]
        samples = evaluation.samples * len(teacher_solvers(components)) * sum(each)
        yield from ((steps, samples) for steps in {*evaluation.steps, *evaluation.teacher_steps})
    yield from ((steps, evaluation.samples) for steps in evaluation.steps)
    if evaluation.every:
        # With evaluation.best, the last update is evaluated as well.
        during = (parts.updates - 1) // evaluation.every + (evaluation.best is not None)
        yield from ((steps, during * evaluation.every_samples) for steps in evaluation.steps)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux reports KiB, and macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory(engine: Engine) -> float:
    """The memory of an engine's device, in bytes.

    Raises:
        DistillkitError: the device does not exist.
    """
    engine.setup()
    if engine.device.type == "cuda":
        return torch.cuda.get_device_properties(engine.device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _container_limit())


def _container_limit() -> float:
    """The memory limit of the container, in bytes; infinite without one."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")
    except OSError:
        return inf
    return float(text) if text.strip() != "max" else inf
