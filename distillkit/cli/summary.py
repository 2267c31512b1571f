"""The settings that `distillkit distill` shows before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillkit.component import Component
from distillkit.config import Components, evaluations_before, make_plan
from distillkit.config.fit import activations, encoding, estimate
from distillkit.files import readable_bytes
from distillkit.interfaces import Inventory, StudentTable
from distillkit.registry import load_registry
from distillkit.terminal import MEASURED


def describe(
    phases: Sequence[Components], inventory: Inventory, memory: float, run_folder: Path, config: Path
) -> list[str]:
    """Describe a run, in lines of text.

    Args:
        phases: the components of each phase. Their engines are set up.
        inventory: the sizes of the model.
        memory: the device's memory in bytes.
        run_folder: the run's folder.
        config: the path to which the config will be written.
    """
    # The one that needs most memory, and says how the student is sampled.
    last = phases[-1]
    engine, source, evaluation = last.engine, last.source, last.evaluation
    precision, recompute = _option(engine, "precision"), _option(engine, "recompute")
    needs = estimate(last, inventory)
    prompts = encoding(last, inventory)
    one = activations(inventory, evaluation.guidance, bool(recompute))
    beside = f" and {_count(inventory.frozen)} in frozen parts" if inventory.frozen else ""
    adapter = f", an adapter of {_count(inventory.adapter)}" if inventory.adapter else ""
    how = "" if precision is None else f", precision {precision}"
    how += "" if recompute is None else f", gradient checkpointing {'on' if recompute else 'off'}"
    registry = load_registry()
    scored = f"--features {registry.default('features')} --metric {registry.default('metric')}"
    steps = ",".join(map(str, evaluation.steps))
    lines = [("model", f"{inventory.what}, {_count(inventory.parameters)} parameters{beside}{adapter}")]
    if inventory.others:
        lines.append(("beside it", inventory.others))
    for name, phase in zip(["method", *["then"] * len(phases)], phases, strict=False):
        lines += [(name, _method(phase)), ("stages", _stages(phase))]
    if any(phase.run.updates > 2 * MEASURED for phase in phases):
        lines.append(("time", f"shown once the first {MEASURED} updates are measured"))
    lines += [("guidance", _guidance(last)), ("engine", f"{engine.name} on {engine.device}{how}")]
    if last.adapter is not None:
        lines.append(("student", _adapter(last, last.adapter, inventory, memory)))
    lines.append(
        (
            "memory",
            f"{readable_bytes(needs.total)} of {readable_bytes(memory)}: {readable_bytes(needs.trained)} for "
            f"training, {readable_bytes(needs.copies)} for teachers, {readable_bytes(needs.frozen)} for frozen parts; "
            f"activations come on top, about {readable_bytes(source.options.batch * one)}",
        )
    )
    if prompts:
        lines.append(
            ("", f"before that, {readable_bytes(prompts)} to encode the prompts; text encoders are then freed")
        )
    lines += [
        ("", f"(measure them: distillkit plan {config} --measure)"),
        ("scores", "none, because they need real pictures. With a folder of pictures, afterwards:"),
        ("", f"distillkit evaluate {run_folder} --steps {steps} {scored} --reference FOLDER"),
        ("config", f"{config} (distillkit run {config})"),
    ]
    return [f"{name:<10}{text}" for name, text in lines]


def _method(phase: Components) -> str:
    """The method, and how it is trained."""
    optimizer = phase.optimizer
    batch = f"batches of {phase.source.options.batch}"
    if optimizer.accumulate > 1:
        batch += f", {optimizer.accumulate} to an update"
    final = optimizer.final_learning_rate
    rate = f"learning rate {optimizer.learning_rate:g}" + (f" to {final:g}" if final is not None else "")
    return f"{phase.run.method}: {phase.run.updates} updates, {batch}, {rate}"


def _adapter(phase: Components, adapter: StudentTable, inventory: Inventory, memory: float) -> str:
    """What is an adapter, and what the networks would take if none were."""
    whole = estimate(replace(phase, student=None), inventory).total
    who = "student and critic are adapters" if phase.critic is not None else "the student is an adapter"
    does = "does not fit" if whole > memory else "would fit, too"
    return (
        f"{adapter.adapter}, rank {adapter.rank}: {who} on one copy of the weights; all weights trained, they take "
        f"{readable_bytes(whole)}, which {does}"
    )


def _option(component: Component, what: str) -> Any:
    """The value of an option in `command_options`; None if the component has none."""
    return getattr(component.options, component.command_options.get(what, ""), None)


def _stages(components: Components) -> str:
    """The numbers of steps N of the stages, and the cost."""
    plan = make_plan(components)
    depths = [stage.steps for stage in plan]
    # The shortest sequence that is repeated, as by `schedule.cycles`.
    length = next(i for i in range(1, len(depths) + 1) if depths == depths[:i] * (len(depths) // i))
    shown = [*map(str, depths[:length])]
    if length > 8:
        shown[2:-1] = ["…"]
    times = f", {len(depths) // length} times" if length < len(depths) else ""
    evaluations = sum(stage.all_evaluations for stage in plan)
    steps = ", ".join(map(str, components.source.levels)) or components.evaluation.export_steps
    first = evaluations_before(components, plan)
    before = f", and {first} before them" if first else ""
    return f"N = {', '.join(shown)}{times}: for {steps} steps; {evaluations} network evaluations{before}"


def _guidance(components: Components) -> str:
    if components.baked:
        scales = components.scales or (components.source.options.guidance,)
        return f"{' to '.join(f'{scale:g}' for scale in scales)}, inside the student: one evaluation a step"
    return f"{components.evaluation.guidance:g}" if components.evaluation.guidance != 1 else "none"


def _count(number: int) -> str:
    units = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
    return next(f"{number / unit:.3g} {name}".strip() for unit, name in units if number >= unit)
