"""The hooks that a plugin may implement: one per kind of component, and one for presets.

Each returns classes (not instances); a class carries its own name. Import inside the hook's body, so that asking
for schedules never imports torch.
"""

from __future__ import annotations

from typing import Any

import pluggy

from distillkit import interfaces

hookspec = pluggy.HookspecMarker("distillkit")


@hookspec
def distillkit_teachers() -> list[type[interfaces.Teacher]]:  # type: ignore[empty-body]
    """Whose prediction is the goal."""


@hookspec
def distillkit_targets() -> list[type[interfaces.Target]]:  # type: ignore[empty-body]
    """Which x̂ the student should have predicted."""


@hookspec
def distillkit_schedules() -> list[type[interfaces.Schedule]]:  # type: ignore[empty-body]
    """How many steps N_i, for how many updates."""


@hookspec
def distillkit_losses() -> list[type[interfaces.Loss]]:  # type: ignore[empty-body]
    """How far off the student is, and how much that matters."""


@hookspec
def distillkit_sources() -> list[type[interfaces.Source]]:  # type: ignore[empty-body]
    """Where z_t comes from."""


@hookspec
def distillkit_models() -> list[type[interfaces.Model]]:  # type: ignore[empty-body]
    """The network, its noise path, how to save it."""


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
    """How good the samples are."""


@hookspec
def distillkit_trackers() -> list[type[interfaces.Tracker]]:  # type: ignore[empty-body]
    """Where the run is recorded."""


@hookspec
def distillkit_converters() -> list[type[interfaces.Converter]]:  # type: ignore[empty-body]
    """Checkpoints of other code than diffusers', as pipelines."""


@hookspec
def distillkit_presets() -> dict[str, dict[str, Any]]:  # type: ignore[empty-body]
    """Named sets of tables: preset name -> the tables that a config with `preset = name` starts from.

    Beside them, `scale = {parameters = …, updates = …}` says for how large a network the learning rate is, and for how
    many updates; `distillkit distill` goes from there.
    """
