"""What a run will take on this machine: a few of its updates and a batch of its pictures, timed."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from distillkit import distributed
from distillkit.config import Settings
from distillkit.evaluation import Pictures
from distillkit.interfaces import Engine, PrecomputingSource
from distillkit.terminal import Reporter
from distillkit.training.assemble import Parts, load, prepare, prepare_source
from distillkit.training.export import export
from distillkit.training.folder import RunFolder
from distillkit.training.loop import Position, updates
from distillkit.training.run import from_result

UPDATES = 4
"""Updates that are made for each kind of stage. The first is not counted: it also allocates."""


@dataclass(frozen=True)
class Measured:
    """What to expect of one phase.

    Attributes:
        before: seconds in what the source has yet to do before the first update.
        stages: seconds in each stage's updates.
        scoring: seconds in sampling and feature extraction, all evaluations together.
    """

    before: float
    stages: list[float]
    scoring: float


def measure(phases: Sequence[Settings]) -> tuple[list[Measured], int, str]:
    """Time each phase, in a folder that is gone afterwards.

    Returns:
        what to expect of each phase; the memory in bytes that it took (on a GPU: its allocator's peak; on a CPU: the
        process's); and the device.

    Raises:
        DistillkitError: a run would have raised it at its beginning.
    """
    reporter = Reporter(Console(stderr=True, quiet=True))
    # Claims the device, and meets the other processes.
    engine = phases[0].components().engine
    engine.setup()
    with tempfile.TemporaryDirectory(prefix="distillkit-") as temporary:
        place = RunFolder(Path(distributed.broadcast(temporary)))
        found = [_phase(from_result(phase, place.path, i), place, i, reporter) for i, phase in enumerate(phases, 1)]
    return found, _memory(engine.device), str(engine.device)


def _phase(components: Settings, place: RunFolder, number: int, reporter: Reporter) -> Measured:
    parts = load(components.components())
    before = 0.0
    missing, source = prepare(parts), parts.components.source
    if missing and isinstance(source, PrecomputingSource):
        parts, part = _try_source(parts, source.trial(place.path / "source"))
        before = len(missing) * part
    # Stages whose updates cost as many evaluations take as long.
    kinds: dict[int, float] = {}
    stages = []
    for stage in parts.plan:
        if stage.updates and stage.evaluations not in kinds:
            short = replace(stage, updates=UPDATES)
            kinds[stage.evaluations] = _update(replace(parts, plan=[short]), reporter)
        stages.append(kinds[stage.evaluations] * stage.updates if stage.updates else 0.0)
    scoring = _scoring(parts)
    # What the next phase begins with.
    pipeline = place.path / "phases" / str(number) / "pipeline"
    distributed.on_main_process(lambda: pipeline.parent.mkdir(parents=True), pipeline.parent)
    export(parts, pipeline, [])
    return Measured(before, stages, scoring)


def _try_source(parts: Parts, source: PrecomputingSource) -> tuple[Parts, float]:
    """The parts with this source, its work before the first update done, and the seconds that a part of that took."""
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
    """Seconds that one update takes."""
    seconds: list[float] = [line.values["seconds"] for line in updates(parts, Position(), reporter.say)]
    return median(after - before for before, after in pairwise(seconds))


def _scoring(parts: Parts) -> float:
    """Seconds that all the pictures of a run take that are scored."""
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
    """(sampling steps, pictures) of every score that the run takes."""
    components, evaluation = parts.components, parts.components.evaluation
    if evaluation.teacher and components.teacher is not None and not components.model.spec.untrained:
        yield from ((steps, evaluation.samples) for steps in {*evaluation.steps, *evaluation.teacher_steps})
    yield from ((steps, evaluation.samples) for steps in evaluation.steps)
    if evaluation.every:
        # The end is scored once more where the best weights are kept.
        during = (parts.updates - 1) // evaluation.every + (evaluation.best is not None)
        yield from ((steps, during * evaluation.every_samples) for steps in evaluation.steps)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory(engine: Engine) -> float:
    """Bytes of memory of the device that an engine claims.

    Raises:
        DistillkitError: the device is not there.
    """
    engine.setup()
    if engine.device.type == "cuda":
        return torch.cuda.get_device_properties(engine.device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _container_limit())


def _container_limit() -> float:
    """Bytes that a container may use."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")
    except OSError:
        return inf
    return float(text) if text.strip() != "max" else inf
