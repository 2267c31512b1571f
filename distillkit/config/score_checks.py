"""Checks that the tables of a config that say which scores are taken fit together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.config.settings import Components, Scoring, find_score, label, scores_taken
from distillkit.config.tables import EvaluationTable
from distillkit.errors import Mistake
from distillkit.interfaces import ModelSpec
from distillkit.registry import heading


def check_best(components: Components) -> Iterator[Mistake]:
    """Yield the mistakes in evaluation.best: a score that the run does not take."""
    evaluation = components.evaluation
    if evaluation.best is None:
        return
    if not evaluation.every:
        yield Mistake(
            "evaluation.every",
            "must be at least 1: evaluation.best needs scores during the run",
        )
    if find_score(components, evaluation.best) is None:
        yield Mistake(
            "evaluation.best",
            f"'{evaluation.best}' is no score that the run takes; it takes: "
            f"{', '.join(scores_taken(components)) or 'none'} (see evaluation.steps and [[metric]])",
        )


def check_scores(components: Scoring) -> Iterator[Mistake]:
    """Yield the mistakes that would keep the metrics from being computed."""
    features = components.features
    if features is None:
        if components.metrics:
            yield Mistake("features", "is required: metrics need a feature network; add a [features] table")
        return
    labels: dict[str, int] = {}
    for i, metric in enumerate(components.metrics):
        name = label(metric, features)
        if name in labels:
            yield Mistake(
                f"metric[{i}]",
                f"{heading(metric)}: label() gave '{name}', as that of metric[{labels[name]}] did; expected a name "
                "for each score: remove one of them",
            )
        labels.setdefault(name, i)
    data = components.data
    has = {"bundled": features.has_bundled_reference, "data": data is not None}
    wanted = components.evaluation.reference
    reads_data = wanted == "data" or (wanted == "auto" and not has["bundled"])
    for i, metric in enumerate(components.metrics):
        if metric.needs_logits and not features.has_logits:
            yield Mistake(
                f"metric[{i}].type",
                f"'{metric.name}' needs class logits; the features '{features.name}' have none",
            )
        if metric.needs_reference and not (any(has.values()) if wanted == "auto" else has[wanted]):
            yield Mistake(
                "evaluation.reference",
                f"is \"{wanted}\", but '{metric.name}' has no real images there to compare with: the features "
                f"'{features.name}' have {'some' if has['bundled'] else 'none'}, and there is "
                f"{'a' if has['data'] else 'no'} [data] table",
            )
        elif metric.needs_reference and reads_data and data is not None and data.streamed:
            yield Mistake(
                "evaluation.reference",
                f"is \"{wanted}\", and '{metric.name}' compares with all images of [data], which are streamed; use "
                "features with a reference of their own, or data that are not streamed",
            )


def check_samplers(evaluation: EvaluationTable, spec: ModelSpec) -> Iterator[Mistake]:
    """Yield the samplers and solvers that the loaded model lacks."""
    if evaluation.sampler not in spec.samplers:
        yield Mistake(
            "evaluation.sampler",
            f'is "{evaluation.sampler}", which the exported pipeline of {spec.label} cannot use; expected '
            f"{' or '.join(spec.samplers)}",
        )
    known = ("ddim", *spec.solvers)
    if unknown := [solver for solver in evaluation.teacher_solvers or () if solver not in known]:
        yield Mistake(
            "evaluation.teacher_solvers",
            f'has "{unknown[0]}", which is no solver of {spec.label}; expected some of {", ".join(known)}',
        )
