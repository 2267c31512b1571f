"""The kinds of components. Each has a hook, and most have a table in the config with the kind's name."""

from __future__ import annotations

from dataclasses import dataclass

from distillkit import interfaces
from distillkit.component import Component


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    Attributes:
        name: the name of the kind, and of its table in a config (`[schedule]`).
        hook: the hook that contributes its classes.
        base: the interface that its classes implement.
        many: whether a config may have several of them (`[[loss]]`).
        in_config: whether it has a table in a config. If not, an option of a command names it.
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
        Kind("critic", "distillkit_critics", interfaces.Critic),
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
