"""The scores that a run takes as it goes, and the one that its schedule watches. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillkit.config.settings import Components
from distillkit.interfaces import Metric, Stage


def score_name(label: str, steps: int) -> str:
    """What the score of a metric at a number of sampling steps is called: "fd-fashion/steps-4"."""
    return f"{label}/steps-{steps}"


def scores_taken(settings: Components) -> dict[str, Metric]:
    """Every score that is taken during the run, by name, and the metric that it is of; metric by metric."""
    features = settings.features
    if features is None:
        return {}
    return {
        score_name(metric.label(features), steps): metric
        for metric in settings.metrics
        for steps in settings.evaluation.steps
    }


def watched(settings: Components, steps: int) -> str | None:
    """The score that decides when a stage is over whose student samples in `steps` steps.

    None: none does, or it is none of those that the run takes (the config's checks tell).
    """
    wanted = settings.schedule.watches(steps)
    return None if wanted is None else find_score(settings, wanted)


def find_score(settings: Components, wanted: str) -> str | None:
    """The score that "fd-fashion/steps-4" or "steps-4" (of the first metric) means; None: it is not taken."""
    return next((name for name in scores_taken(settings) if name == wanted or name.endswith(f"/{wanted}")), None)


def series(settings: Components, stage: Stage, scores: Sequence[Mapping[str, float]]) -> list[float]:
    """The watched score after each evaluation of a stage, lower being better; empty if none is watched.

    Args:
        settings: the config.
        stage: the stage.
        scores: all scores by name, for each evaluation that the stage has seen.
    """
    name = watched(settings, stage.jumps)
    if name is None:
        return []
    sign = -1 if scores_taken(settings)[name].higher_is_better else 1
    return [sign * taken[name] for taken in scores]
