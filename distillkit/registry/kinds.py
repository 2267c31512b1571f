"""The kinds of components: each has a hook, and most a table of their name in the config."""

from __future__ import annotations

from dataclasses import dataclass

from distillkit import interfaces
from distillkit.component import Component


@dataclass(frozen=True)
class Kind:
    """
    Attributes:
        name: the kind, and its table in a config (`[schedule]`), if it has one.
        hook: the hook that contributes its classes.
        base: the interface that they implement.
        many: whether a config may name several (`[[loss]]`).
        in_config: whether a config names it at all; a command does otherwise.
    """

    name: str
    hook: str
    base: type[Component]
    many: bool = False
    in_config: bool = True


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("model", "distillkit_models", interfaces.Model),
        Kind("teacher", "distillkit_teachers", interfaces.Teacher),
        Kind("target", "distillkit_targets", interfaces.Target),
        Kind("schedule", "distillkit_schedules", interfaces.Schedule),
        Kind("source", "distillkit_sources", interfaces.Source),
        Kind("data", "distillkit_data", interfaces.Data),
        Kind("loss", "distillkit_losses", interfaces.Loss, many=True),
        Kind("engine", "distillkit_engines", interfaces.Engine),
        Kind("features", "distillkit_features", interfaces.Features),
        Kind("metric", "distillkit_metrics", interfaces.Metric, many=True),
        Kind("tracker", "distillkit_trackers", interfaces.Tracker),
        Kind("converter", "distillkit_converters", interfaces.Converter, in_config=False),
    )
}

TABLES = [kind.name for kind in KINDS.values() if kind.in_config]
"""The kinds that have a table in a config."""
