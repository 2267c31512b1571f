"""The hooks that a plugin can implement: one for each kind of component, and one for presets.

Each hook returns classes, not instances. The name of a component is its class attribute `name`.
"""

from __future__ import annotations

from typing import Any

import pluggy

from distillkit import interfaces

hookspec = pluggy.HookspecMarker("distillkit")


@hookspec
def distillkit_teachers() -> list[type[interfaces.Teacher]]:  # type: ignore[empty-body]
    """The networks whose prediction the student learns."""


@hookspec
def distillkit_targets() -> list[type[interfaces.Target]]:  # type: ignore[empty-body]
    """The x̂ that the student should predict."""


@hookspec
def distillkit_critics() -> list[type[interfaces.Critic]]:  # type: ignore[empty-body]
    """The networks that learn the student's samples beside it, and judge them."""


@hookspec
def distillkit_schedules() -> list[type[interfaces.Schedule]]:  # type: ignore[empty-body]
    """The numbers of steps N_i, and the number of updates for each."""


@hookspec
def distillkit_losses() -> list[type[interfaces.Loss]]:  # type: ignore[empty-body]
    """The error of the student's prediction, and its weight."""


@hookspec
def distillkit_sources() -> list[type[interfaces.Source]]:  # type: ignore[empty-body]
    """Where noisy samples z_t come from."""


@hookspec
def distillkit_models() -> list[type[interfaces.Model]]:  # type: ignore[empty-body]
    """The network, its noise path, and its file format."""


@hookspec
def distillkit_data() -> list[type[interfaces.Data]]:  # type: ignore[empty-body]
    """Images and labels."""


@hookspec
def distillkit_engines() -> list[type[interfaces.Engine]]:  # type: ignore[empty-body]
    """Device, precision, backward, optimiser, EMA."""


@hookspec
def distillkit_features() -> list[type[interfaces.Features]]:  # type: ignore[empty-body]
    """The network in whose features samples are scored."""


@hookspec
def distillkit_metrics() -> list[type[interfaces.Metric]]:  # type: ignore[empty-body]
    """Scores of samples."""


@hookspec
def distillkit_trackers() -> list[type[interfaces.Tracker]]:  # type: ignore[empty-body]
    """Where runs are tracked."""


@hookspec
def distillkit_converters() -> list[type[interfaces.Converter]]:  # type: ignore[empty-body]
    """Convert checkpoints of other code bases to pipelines."""


@hookspec
def distillkit_presets() -> dict[str, dict[str, Any]]:  # type: ignore[empty-body]
    """Presets: name -> the tables that a config with `preset = name` starts from.

    The optional table `scale = {parameters = …, updates = …}` gives the size of network and the number of updates that
    the learning rate was chosen for; `distillkit distill` scales the rate from there.
    """
