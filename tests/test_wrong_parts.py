"""Parts that break the rules of their interfaces: each ends in a sentence that names package, kind, part and method."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from distillkit_cache.cached_trajectories import CachedTrajectories
from distillkit_data.datasets import Digits
from distillkit_diffusers.model import DiffusersModel
from distillkit_dsd.dsd import MergedSteps
from distillkit_dsd.trajectory import Trajectory
from distillkit_engines.torch_engine import TorchEngine
from distillkit_losses.losses import XMse
from distillkit_metrics.features import Pixels
from distillkit_metrics.metrics import FrechetDistance
from distillkit_pd.frozen_teacher import FrozenTeacher
from distillkit_schedules.schedules import Halving
from helpers.digits import MODEL, PLAIN, SCORED, TWO_PHASES, Run, settings, two_phases

from distillkit import __version__
from distillkit.cli.group import cli
from distillkit.component import Component
from distillkit.config import Config, evaluations_before, make_plan, read_config
from distillkit.config.checks import check_together
from distillkit.config.settings import Settings
from distillkit.config.tables import Choice
from distillkit.errors import DistillkitError
from distillkit.interfaces import FeatureStatistics, ModelSpec, NoTracker, Schedule, Stage
from distillkit.interfaces.tracker import Status
from distillkit.noise import TablePath
from distillkit.registry import Plugin, Registered, Registry, load_registry, raised_by
from distillkit.training import seams
from distillkit.training.run import run

HERE = __name__
"""The package of the parts below, which no distribution has."""
TABLES = MODEL + PLAIN + SCORED


def part(base: type[Any], **methods: Any) -> type[Any]:
    """A part of another one, with methods of its own."""
    return type(base.__name__, (base,), {**methods, "__module__": HERE})


def giving(base: type[Any], method: str, change: Callable[[Any], Any]) -> type[Any]:
    """A part of another one whose method gives something else."""
    return part(base, **{method: lambda self, *given: change(getattr(base, method)(self, *given))})


def giving_after(base: type[Any], method: str, change: Callable[..., Any]) -> type[Any]:
    """A part of another one whose method first changes what it gets."""

    @functools.wraps(getattr(base, method))
    def give(self: Any, *given: Any) -> Any:
        change(*given)
        return getattr(base, method)(self, *given)

    return part(base, **{method: give})


ALONE = "expected arguments that stay as they are, as others use them: no methods such as sub_() and no -="


def loading(**changes: Any) -> type[Any]:
    """A model that says something else of itself once it is loaded; a path may be made of its own."""

    def load(self: DiffusersModel) -> None:
        DiffusersModel.load(self)
        own = {key: value(self.spec) if callable(value) else value for key, value in changes.items()}
        self.spec = replace(self.spec, **own)

    return part(DiffusersModel, load=load)


def path(**methods: Any) -> Callable[[ModelSpec], Any]:
    """Of a spec: its path with methods that give something else."""

    def make(spec: ModelSpec) -> Any:
        assert isinstance(spec.path, TablePath)
        calls = {
            name: lambda self, *given, name=name, change=change: change(getattr(TablePath, name)(self, *given))
            for name, change in methods.items()
        }
        return type("Path", (TablePath,), calls)(spec.path.alphas_cumprod)

    return make


def reversed_table(spec: ModelSpec) -> TablePath:
    assert isinstance(spec.path, TablePath)
    return TablePath(spec.path.alphas_cumprod.flip(0))


def with_part(folder: Path, kind: str, component: type[Component], *assignments: str, preset: str = "dsdi") -> Settings:
    """A preset with another part in the place of its own, which has its options, for two updates."""
    depth = "schedule.steps=4" if preset.startswith("luhman") else "schedule.start=4"
    words = ("run.updates=2", "source.batch=4", depth, "evaluation.teacher=false", "evaluation.samples=4")
    usual = settings(folder, preset, *words, *assignments, tables=TABLES)
    [own] = usual.choices[kind]
    options = dict(own.options) if component.Options is own.component.Options else {}
    choice = Choice(component, component.Options(**options))
    return replace(usual, choices={**usual.choices, kind: [choice]})


def carry_out(folder: Path, kind: str, component: type[Component], *assignments: str, preset: str = "dsdi") -> Run:
    run(Config.of(with_part(folder, kind, component, *assignments, preset=preset)), folder / "run")
    return Run(folder / "run")


def mistakes(folder: Path, kind: str, component: type[Component]) -> list[str]:
    """Those that `distillkit check` finds between the tables."""
    components = with_part(folder, kind, component).components()
    return [*map(str, check_together(components, set(), Registry({"source": {}})))]


MODELS = {
    "prediction": (
        loading(prediction="velocity"),
        "spec.prediction is 'velocity'; expected 'epsilon' or 'v_prediction' or 'sample' or 'flow'",
    ),
    "shape": (
        loading(sample_shape=(8, 8)),
        "spec.sample_shape is (8, 8); expected (C, H, W), whole numbers from 1",
    ),
    "classes": (loading(classes=10.0), "spec.classes is 10.0; expected a whole number of classes, at least 1"),
    "samplers": (
        loading(samplers=("euler",)),
        "spec.samplers is ('euler',); expected some of 'ddim', 'consistency'",
    ),
    "half precision": (
        part(DiffusersModel, load=lambda self: (DiffusersModel.load(self), self.network.half())),
        "network is in torch.float16; expected float32 weights; the engine chooses the precision",
    ),
    "rising ᾱ": (
        loading(path=reversed_table),
        "spec.path is a TablePath whose ᾱ rises or leaves [0, 1]; expected ᾱ that falls from 1 to 0",
    ),
    "ᾱ that is not finite": (
        loading(path=lambda spec: TablePath(spec.path.alphas_cumprod * torch.nan)),
        "spec.path is a TablePath whose ᾱ rises or leaves [0, 1]; expected ᾱ that falls from 1 to 0",
    ),
    "rising σ": (
        loading(path=path(alpha_sigma=lambda pair: pair[::-1])),
        "spec.path.alpha_sigma() gave α 1 … 0.94 … 0 and σ 0.0119 … 0.34 … 1 along a grid of 4 steps; expected σ/α "
        "that falls to 0, and α = 1 at the end",
    ),
    "α that is not finite": (
        loading(path=path(alpha_sigma=lambda pair: (pair[0] / 0, pair[1]))),
        "spec.path.alpha_sigma() gave float32 [5, 1, 1, 1] with values that are not finite; expected finite ones: α",
    ),
    "rising times": (
        loading(path=path(grid=lambda times: times.flip(0))),
        "spec.path.grid(4) gave times from -1 to 999; expected times that fall, from 999 at most to -1",
    ),
    "too few times": (
        loading(path=path(grid=lambda times: times[1:])),
        "spec.path.grid(4) gave int64 [4]; expected 5 times",
    ),
    "no clean time": (
        loading(path=path(grid=lambda times: times.clamp(min=0))),
        "spec.path.grid(4) gave times from 999 to 0; expected times that fall, from 999 at most to -1",
    ),
    "one of a batch": (
        giving(DiffusersModel, "forward", lambda output: output[:1]),
        "forward() gave float32 [1, 1, 8, 8] on cpu; expected a floating-point tensor [4, 1, 8, 8] on cpu, as z",
    ),
    "half a batch": (
        giving(DiffusersModel, "forward", lambda output: output[: len(output) // 2]),
        "forward() gave float32 [2, 1, 8, 8] on cpu; expected a floating-point tensor [4, 1, 8, 8] on cpu, as z",
    ),
    "output that is not finite": (
        giving(DiffusersModel, "forward", lambda output: output / 0),
        "forward() gave float32 [4, 1, 8, 8] with values that are not finite; expected finite ones: as z",
    ),
    "no condition": (
        giving(DiffusersModel, "condition", lambda condition: [*condition.inputs]),
        "condition() gave ['class_labels']; expected a Condition",
    ),
    "condition of one": (
        giving(DiffusersModel, "condition", lambda condition: condition.map(lambda tensor: tensor[:1])),
        "condition() gave inputs.class_labels int64 [1]; expected a tensor of 4 samples, [4, …]",
    ),
    "nothing exported": (
        part(DiffusersModel, export=lambda self, network, folder, export: None),
        "export() gave no files; expected a folder with the network",
    ),
    "an empty folder exported": (
        part(DiffusersModel, export=lambda self, network, folder, export: folder.mkdir()),
        "export() gave no files; expected a folder with the network",
    ),
    "a size as a float": (
        loading(sample_shape=(1, 8.0, 8)),
        "spec.sample_shape is (1, 8.0, 8); expected (C, H, W), whole numbers from 1",
    ),
    "no name": (loading(label=None), "spec.label is None; expected the model's name"),
    "a sampler's name": (loading(samplers="ddim"), "spec.samplers is 'ddim'; expected some of 'ddim', 'consistency'"),
    "guidance in a word": (loading(supports_guidance="yes"), "spec.supports_guidance is 'yes'; expected True or False"),
    "scales in a pair": (
        loading(guidance_input=(1.0, 3.0)),
        "spec.guidance_input is (1.0, 3.0); expected a GuidanceInput with 0 ≤ low ≤ high, or None",
    ),
    "decoded to bytes": (
        giving(DiffusersModel, "decode", lambda images: images.byte()),
        "decode() gave uint8 [4, 1, 8, 8]; expected a floating-point tensor [4, …, …, …], images [B, C, H, W]",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_wrong_models(tmp_path: Path, case: str) -> None:
    model, sentence = MODELS[case]
    with pytest.raises(DistillkitError) as caught:
        carry_out(tmp_path, "model", model)
    assert str(caught.value) == f"{HERE}, model 'diffusers': {sentence}"


def test_grid_that_is_not_taken(tmp_path: Path) -> None:
    def make(spec: ModelSpec) -> Any:
        assert isinstance(spec.path, TablePath)
        return type("Path", (TablePath,), {"with_grid": lambda self, *_: self})(spec.path.alphas_cumprod)

    with pytest.raises(DistillkitError) as caught:
        carry_out(tmp_path, "model", loading(path=make), "grid.start=500")
    assert str(caught.value) == (
        f"{HERE}, model 'diffusers': spec.path.with_grid() gave grids with the spacing \"trailing\" and the start 999; "
        'expected "trailing" and 500, as [grid] says'
    )


def labelled(change: Callable[[torch.Tensor], Any]) -> type[Any]:
    return giving(Digits, "batch", lambda pair: (pair[0], change(pair[1])))


def drawn(**changes: Callable[[Any], Any]) -> type[Any]:
    """A source whose batches have other tensors."""

    def change(jumps: Any) -> Any:
        return replace(jumps, **{name: made(getattr(jumps, name)) for name, made in changes.items()})

    return giving(Trajectory, "draw", change)


def referring(statistics: Callable[[torch.Tensor], Any]) -> type[Any]:
    """Features with a reference of their own, made from a mean."""
    mean = torch.ones(64, dtype=torch.float64)
    return part(Pixels, has_bundled_reference=True, bundled_reference=lambda self: statistics(mean))


OTHERS: dict[str, tuple[str, str, type[Any], str]] = {
    "images of bytes": (
        "data pd",
        "batch()",
        giving(Digits, "batch", lambda pair: ((pair[0] * 127 + 127).byte(), pair[1])),
        "gave uint8 [1, 1, 8, 8]; expected float32 [1, …, …, …], images [B, C, H, W]",
    ),
    "images up to 255": (
        "data pd",
        "batch()",
        giving(Digits, "batch", lambda pair: ((pair[0] + 1) * 127.5, pair[1])),
        "gave images from 0 to 239.062; expected values in [-1, 1]",
    ),
    "labels from 1": (
        "data pd",
        "batch()",
        labelled(lambda labels: labels + 10),
        "gave labels from 10 to 10; expected 0 to 9, as `classes` is 10",
    ),
    "labels of one-hot vectors": (
        "data pd",
        "batch()",
        labelled(lambda labels: torch.nn.functional.one_hot(labels, 10)),
        "gave int64 [1, 10]; expected int64 [1], a label for each image",
    ),
    "labels of real numbers": (
        "data pd",
        "batch()",
        labelled(lambda labels: labels.float()),
        "gave float32 [1]; expected int64 [1], a label for each image",
    ),
    "labels and no classes": (
        "data pd",
        "batch()",
        labelled(lambda labels: None),
        "gave no labels; expected what `classes` says, which is 10",
    ),
    "half an image": (
        "data pd",
        "__len__()",
        part(Digits, __len__=lambda self: 0.5),
        "gave 0.5; expected a whole number of images, at least 1",
    ),
    "classes in a word": (
        "data pd",
        "classes",
        part(Digits, classes=property(lambda self: "ten")),
        "is 'ten'; expected a whole number of classes, at least 1",
    ),
    "names of two classes": (
        "data pd",
        "class_names",
        part(Digits, class_names=property(lambda self: ["0", "1"])),
        "is ['0', '1']; expected 10 names, as `classes` says, or None",
    ),
    "loss of a batch": (
        "loss",
        "per_sample()",
        giving(XMse, "per_sample", torch.mean),
        "gave float32 [] on cpu; expected a floating-point tensor [4] on cpu, a number for each sample",
    ),
    "loss of each pixel": (
        "loss",
        "per_sample()",
        part(XMse, per_sample=lambda self, jumps, student, goal: (student.x0 - goal).square()),
        "gave float32 [4, 1, 8, 8] on cpu; expected a floating-point tensor [4] on cpu, a number for each sample",
    ),
    "loss that is not finite": (
        "loss",
        "per_sample()",
        giving(XMse, "per_sample", lambda terms: terms * torch.nan),
        "gave float32 [4] with values that are not finite; expected finite ones: a number for each sample",
    ),
    "loss without a gradient": (
        "loss",
        "per_sample()",
        giving(XMse, "per_sample", torch.detach),
        "gave numbers without a gradient; expected numbers that depend on the student's",
    ),
    "loss that empties its goal": (
        "loss",
        "per_sample()",
        part(XMse, per_sample=lambda self, jumps, student, goal: (student.x0 - goal.zero_()).flatten(1).mean(1)),
        f"gave a result, but changed goal in place; {ALONE}",
    ),
    "loss that changes the jumps": (
        "loss",
        "per_sample()",
        giving_after(XMse, "per_sample", lambda jumps, student, goal: jumps.z.add_(1)),
        f"gave a result, but changed jumps.z in place; {ALONE}",
    ),
    "network that changes its input": (
        "model",
        "forward()",
        giving_after(DiffusersModel, "forward", lambda network, z, *_: z.add_(1)),
        f"gave a result, but changed z in place; {ALONE}",
    ),
    "target that changes the student's prediction": (
        "target",
        "compute()",
        giving_after(MergedSteps, "compute", lambda jumps, student, *_: student.x0.add_(1)),
        f"gave a result, but changed student.x0 in place; {ALONE}",
    ),
    "loss that is a list": (
        "loss",
        "per_sample()",
        giving(XMse, "per_sample", torch.Tensor.tolist),
        "gave an object of the type list; expected a floating-point tensor [4] on cpu, a number for each sample",
    ),
    "half a target": (
        "target",
        "compute()",
        giving(MergedSteps, "compute", lambda batch: replace(batch, x0=batch.x0[:2])),
        "gave float32 [2, 1, 8, 8] on cpu; expected a floating-point tensor [4, 1, 8, 8] on cpu, x0, as z",
    ),
    "target without a landing": (
        "target",
        "compute()",
        giving(MergedSteps, "compute", lambda batch: replace(batch, z_next=None)),
        "gave None; expected a floating-point tensor [4, 1, 8, 8] on cpu, z_next, as z",
    ),
    "target that is not finite": (
        "target",
        "compute()",
        giving(MergedSteps, "compute", lambda batch: replace(batch, x0=batch.x0 / 0)),
        "gave float32 [4, 1, 8, 8] with values that are not finite; expected finite ones: x0, as z",
    ),
    "target that is a tensor": (
        "target",
        "compute()",
        giving(MergedSteps, "compute", lambda batch: batch.x0),
        "gave float32 [4, 1, 8, 8]; expected a TargetBatch",
    ),
    "view of one": (
        "target",
        "compute()",
        giving(
            MergedSteps,
            "compute",
            lambda batch: replace(batch, view=lambda student: replace(student, x0=student.x0[:1])),
        ),
        "gave float32 [1, 1, 8, 8] on cpu; expected a floating-point tensor [4, 1, 8, 8] on cpu, view(student).x0, as "
        "z",
    ),
    "teacher of one": (
        "teacher tsd",
        "predict()",
        giving(FrozenTeacher, "predict", lambda prediction: replace(prediction, x0=prediction.x0[:1])),
        "gave float32 [1, 1, 8, 8] on cpu; expected a floating-point tensor [4, 1, 8, 8] on cpu, x0, as z",
    ),
    "teacher that gives a tensor": (
        "teacher tsd",
        "predict()",
        giving(FrozenTeacher, "predict", lambda prediction: prediction.x0),
        "gave float32 [4, 1, 8, 8]; expected a Prediction",
    ),
    "state of numbers": (
        "teacher tsd",
        "state_dict()",
        giving(FrozenTeacher, "state_dict", lambda state: {**state, "updates": 3}),
        "gave 'updates': 3; expected tensors by name",
    ),
    "noise in float64": (
        "source",
        "draw()",
        drawn(z=torch.Tensor.double),
        "gave float64 [4, 1, 8, 8]; expected float32 [4, 1, 8, 8], z",
    ),
    "noise for another batch": (
        "source",
        "draw()",
        drawn(z=lambda z: z[:3]),
        "gave float32 [3, 1, 8, 8]; expected float32 [4, 1, 8, 8], z",
    ),
    "noise that is not finite": (
        "source",
        "draw()",
        drawn(z=lambda z: z.log()),
        "gave float32 [4, 1, 8, 8] with values that are not finite; expected finite ones: z",
    ),
    "times of a jump": (
        "source",
        "draw()",
        drawn(times=lambda times: times[:, 0]),
        "gave times int64 [3]; expected times of the shape [3, 4], for jumps of 2 steps",
    ),
    "times that rise": (
        "source",
        "draw()",
        drawn(times=lambda times: times.flip(0)),
        "gave times [499, 749, 999]; expected times that fall, towards clean data",
    ),
    "conditions of three": (
        "source",
        "draw()",
        drawn(condition=lambda condition: condition.map(lambda tensor: tensor[:3])),
        "gave inputs.class_labels int64 [3]; expected a tensor of 4 samples, [4, …]",
    ),
    "engine that accumulates for ever": (
        "engine",
        "update()",
        giving(TorchEngine, "update", lambda update: None),
        "gave None; expected an Update after 1 batches (optimizer.accumulate)",
    ),
    "engine that says whether": (
        "engine",
        "update()",
        giving(TorchEngine, "update", lambda update: replace(update, made=True)),
        "gave True; expected a floating-point tensor [], made: 1 or 0",
    ),
    "engine without a device": (
        "engine",
        "device",
        part(TorchEngine, setup=lambda self: None),
        "is None; expected a torch.device, set by setup()",
    ),
    "engine without an average": (
        "engine",
        "averaged()",
        part(TorchEngine, averaged=lambda self: None),
        "gave None; expected a context manager",
    ),
    "engine without a precision": (
        "engine",
        "autocast()",
        part(TorchEngine, autocast=lambda self: torch.float32),
        "gave torch.float32; expected a context manager",
    ),
    "engine of no layout": (
        "engine",
        "layout",
        part(TorchEngine, layout=property(lambda self: None)),
        "is None; expected a few words, or 'replicated'",
    ),
    "work that is a function": (
        "source luhman-cached",
        "prepare()",
        giving(CachedTrajectories, "prepare", lambda work: lambda: None),
        "gave an object of the type function; expected a sequence of functions",
    ),
    "reference of pixels": (
        "features",
        "bundled_reference()",
        referring(lambda mean: mean),
        "gave float64 [64]; expected FeatureStatistics, or None",
    ),
    "reference that is not there": (
        "features",
        "bundled_reference()",
        referring(lambda mean: None),
        "gave None; expected statistics, as has_bundled_reference says",
    ),
    "reference of half precision": (
        "features",
        "bundled_reference()",
        referring(lambda mean: FeatureStatistics(mean.half(), torch.eye(64), 2, None, None, "00000000")),
        "gave float16 [64]; expected float64 […], the mean",
    ),
    "reference of no images": (
        "features",
        "bundled_reference().count",
        referring(lambda mean: FeatureStatistics(mean, mean.diag(), 0, None, None, "00000000")),
        "is 0; expected a whole number of images, at least 2",
    ),
    "features of no hash": (
        "features",
        "hash",
        part(Pixels, hash=property(lambda self: "pixels")),
        "is 'pixels'; expected eight hexadecimal digits",
    ),
    "features of a batch": (
        "features",
        "extract()",
        giving(Pixels, "extract", lambda pair: (pair[0].mean(0), None)),
        "gave float32 [64]; expected a floating-point tensor [100, …], features of each image",
    ),
    "features alone": (
        "features",
        "extract()",
        giving(Pixels, "extract", lambda pair: pair[0]),
        "gave float32 [100, 64]; expected a pair: features, and logits or None",
    ),
    "features without their logits": (
        "features",
        "extract()",
        part(Pixels, has_logits=True),
        "gave None; expected a floating-point tensor [100, …], class logits of each image",
    ),
    "score that is a word": (
        "metric",
        "compute()",
        part(FrechetDistance, compute=lambda self, samples, reference: "3.0"),
        "gave '3.0'; expected a number",
    ),
    "scores of each image": (
        "metric",
        "compute()",
        part(FrechetDistance, compute=lambda self, samples, reference: samples.mean),
        "gave float64 [64]; expected a number",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_wrong_parts(tmp_path: Path, case: str) -> None:
    where, what, component, sentence = OTHERS[case]
    kind, _, preset = where.partition(" ")
    with pytest.raises(DistillkitError) as caught:
        carry_out(tmp_path, kind, component, preset=preset or "dsdi")
    assert str(caught.value) == f"{HERE}, {kind} '{component.name}': {what} {sentence}"


def test_work_of_half_an_evaluation(tmp_path: Path) -> None:
    source = part(CachedTrajectories, evaluations_before=lambda self, stages: 0.5)
    components = with_part(tmp_path, "source", source, preset="luhman-cached").components()
    with pytest.raises(DistillkitError) as caught:
        evaluations_before(components, make_plan(components))
    assert str(caught.value) == (
        f"{HERE}, source 'cached-trajectories': evaluations_before() gave 0.5; expected a whole number of evaluations, "
        "at least 0"
    )


def test_adapter_of_frozen_weights(tmp_path: Path) -> None:
    model = part(DiffusersModel, adapt=lambda self, student: self.network.requires_grad_(False))
    with pytest.raises(DistillkitError) as caught:
        carry_out(tmp_path, "model", model, "student.adapter=lora")
    assert str(caught.value) == (
        f"{HERE}, model 'diffusers': adapt() gave no weight that requires a gradient; expected those of the adapter to "
        "require one"
    )


def test_stage_that_may_be_over(tmp_path: Path) -> None:
    schedule = part(Halving, watches=lambda self, steps: "steps-2", is_over=lambda self, *given: None)
    with pytest.raises(DistillkitError) as caught:
        carry_out(tmp_path, "schedule", schedule, "run.updates=4", "evaluation.every=1")
    assert str(caught.value) == f"{HERE}, schedule 'halving': is_over() gave None; expected True or False"


@pytest.mark.parametrize("found", [None, ["a file is missing"]])
def test_options_that_are_checked_wrongly(tmp_path: Path, found: Any) -> None:
    registry = load_registry()
    lax = part(Halving, name="lax", check=lambda self: found)
    registry.components["schedule"]["lax"] = [Registered("schedule", "lax", lax, Plugin("p", "p", "1"))]
    file = tmp_path / "mine.toml"
    file.write_text('preset = "dsdi"\n[run]\nupdates = 3\n[schedule]\ntype = "lax"\n' + TABLES, encoding="utf-8")
    with pytest.raises(DistillkitError) as caught:
        read_config(file, registry=lambda: registry)
    given = "None" if found is None else "'a file is missing'"
    assert str(caught.value) == (
        f"{file}: 1 error\n  schedule: {HERE}, schedule 'lax': check() gave {given}; expected the Mistakes in its "
        "options"
    )


@pytest.mark.parametrize("number", [np.float32(1.5), np.float64(1.5), torch.tensor(1.5), torch.tensor([1.5]), 3])
def test_scores_are_plain_numbers(tmp_path: Path, number: Any) -> None:
    metric = part(FrechetDistance, compute=lambda self, samples, reference: number)
    done = carry_out(tmp_path, "metric", metric)
    assert [row["value"] for row in json.loads((done.folder / "scores.json").read_text())] == [float(number)]


@pytest.mark.parametrize(
    ("shares", "key", "fault"),
    [
        ([(8.0, 1.0)], "schedule", "(8.0, 1.0)"),
        ([(8, float("nan"))], "schedule", "(8, nan)"),
        ([(8, 1.0), (4, float("inf"))], "schedule", "(4, inf)"),
        ([8, 4], "schedule", "8"),
        ([(8, "half")], "schedule", "(8, 'half')"),
        (None, "schedule", "None"),
    ],
)
def test_shares_that_are_none(tmp_path: Path, shares: Any, key: str, fault: str) -> None:
    schedule = part(Schedule, name="odd", shares=lambda self: shares)
    [mistake] = mistakes(tmp_path, "schedule", schedule)
    form = "pairs" if shares else "a sequence of pairs"
    assert mistake == (
        f"schedule: {HERE}, schedule 'odd': shares() gave {fault}; expected {form} of a whole and a finite number"
    )


def test_shares_of_too_many_stages(tmp_path: Path) -> None:
    schedule = part(Schedule, name="odd", shares=lambda self: [(4, 1.0)] * 1_000_000)
    [mistake] = mistakes(tmp_path, "schedule", schedule)
    assert mistake == (
        f"schedule: {HERE}, schedule 'odd': shares() gave 1000000 pairs; expected at most 10000: each is a stage of "
        "its own"
    )


PLANS = {
    "no list": (lambda stages: tuple(stages), "an object of the type tuple; expected a list of Stages"),
    "nothing": (lambda stages: None, "None; expected a list of Stages"),
    "pairs": (lambda stages: [(4, 1), (2, 1)], "[(4, 1), (2, 1)]; expected a list of Stages"),
    "half a step": (
        lambda stages: [replace(stages[0], steps=4.5), stages[1]],
        "a stage with steps=4.5 and updates=1; expected whole numbers, and updates of at least 0",
    ),
    "updates as a float": (
        lambda stages: [replace(stages[0], updates=1.0), stages[1]],
        "a stage with steps=4 and updates=1.0; expected whole numbers, and updates of at least 0",
    ),
    "an update that is true": (
        lambda stages: [replace(stages[0], updates=True), stages[1]],
        "a stage with steps=4 and updates=True; expected whole numbers, and updates of at least 0",
    ),
    "updates below 0": (
        lambda stages: [replace(stages[0], updates=-1), replace(stages[1], updates=3)],
        "a stage with steps=4 and updates=-1; expected whole numbers, and updates of at least 0",
    ),
    "a stage left out": (
        lambda stages: [replace(stages[0], updates=2)],
        "1 stages, N = 4; expected one stage for each of its shares(), N = 4, 2",
    ),
    "other steps": (
        lambda stages: [replace(stages[0], steps=3), stages[1]],
        "2 stages, N = 3, 2; expected one stage for each of its shares(), N = 4, 2",
    ),
    "too many updates": (
        lambda stages: [replace(stages[0], updates=2), stages[1]],
        "3 updates in all; expected 1 to 2, as run.updates says",
    ),
    "no updates": (
        lambda stages: [replace(stage, updates=0) for stage in stages],
        "0 updates in all; expected 1 to 2, as run.updates says",
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_wrong_plans(tmp_path: Path, case: str) -> None:
    change, sentence = PLANS[case]
    found = mistakes(tmp_path, "schedule", giving(Halving, "plan", change))
    assert found == [f"schedule: {HERE}, schedule 'halving': plan() gave {sentence}"]


NUMBERS: dict[str, tuple[str, type[Any], str]] = {
    "stride as a float": (
        "target",
        part(MergedSteps, stride=lambda self, stage: 2.0),
        "stride() gave 2.0; expected a whole number of fine steps, at least 1",
    ),
    "stride of nothing": (
        "target",
        part(MergedSteps, stride=lambda self, stage: 0),
        "stride() gave 0; expected a whole number of fine steps, at least 1",
    ),
    "no evaluations": (
        "target",
        part(MergedSteps, teacher_evaluations=lambda self, stage, teacher: None),
        "teacher_evaluations() gave None; expected a whole number of evaluations, at least 0",
    ),
    "a score of no name": (
        "metric",
        part(FrechetDistance, label=lambda self, features: None),
        "label() gave None; expected a name for the score",
    ),
    "a score of several names": (
        "schedule",
        giving(Halving, "watches", lambda name: ["steps-2"]),
        "watches() gave ['steps-2']; expected the name of a score, or None",
    ),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_wrong_numbers_and_names(tmp_path: Path, case: str) -> None:
    kind, component, sentence = NUMBERS[case]
    assert mistakes(tmp_path, kind, component) == [f"{kind}: {HERE}, {kind} '{component.name}': {sentence}"]


def test_two_scores_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        settings(tmp_path, "dsdi", "run.updates=2", tables=TABLES + '[[metric]]\ntype = "fid"\n')
    assert str(caught.value).endswith(
        f"metric[1]: distillkit {__version__}, metric 'fid': label() gave 'fd-pixels', as that of metric[0] did; "
        "expected a name for each score: remove one of them"
    )


def test_phases_need_to_open_what_the_first_one_leaves(tmp_path: Path) -> None:
    registry = load_registry()
    closed = part(DiffusersModel, name="closed", opened=classmethod(lambda *_: None))
    registry.components["model"]["closed"] = [Registered("model", "closed", closed, Plugin("p", "p", "1"))]
    path = two_phases(tmp_path, TWO_PHASES.replace('type = "diffusers"', 'type = "closed"'))
    with pytest.raises(DistillkitError) as caught:
        read_config(path, registry=lambda: registry)
    assert str(caught.value) == (
        f"{path}: 1 error\n  phase[1]: cannot begin with the result of the phase before: {HERE}, model 'closed': "
        "opened() gave None; expected the [model] table that loads what it exports to pipeline"
    )


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            0.0,
            "source 'trajectory': draw() gave the same samples in several processes; expected samples of each "
            "process's own: draw for `global_batch` and keep `shard(…)`",
        ),
        (
            1.0,
            "engine 'torch': update() gave other weights in each process; expected the same ones: average the "
            "gradients",
        ),
    ],
)
def test_what_two_processes_have_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float, sentence: str
) -> None:
    """The other process has the same, or something else."""

    def all_gather(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor + difference])

    two = SimpleNamespace(active=True, all_gather=all_gather, world_size=lambda: 2)
    monkeypatch.setattr(seams, "distributed", two)
    with pytest.raises(DistillkitError) as caught:
        carry_out(tmp_path, "loss", part(XMse))
    assert str(caught.value) == f"distillkit {__version__}, {sentence}"


def test_a_part_that_another_one_calls_is_named(tmp_path: Path) -> None:
    """The schedule asks for the lengths of trajectories, and the core the target for its stride."""

    def stride(self: MergedSteps, stage: Stage) -> float:
        return 1 / 0

    components = with_part(tmp_path, "target", part(MergedSteps, stride=stride)).components()
    with pytest.raises(ZeroDivisionError) as caught:
        make_plan(replace(components, schedule=part(Halving)(components.schedule.options)))
    assert raised_by(caught.value) == f"{HERE}, target 'merged-steps': stride() raised ZeroDivisionError"


def test_a_part_that_calls_the_core_with_something_else_is_named(tmp_path: Path) -> None:

    def plan(self: Halving, updates: int, trajectory: Callable[[Any], int]) -> Any:
        return trajectory("4")

    components = with_part(tmp_path, "schedule", part(Halving, plan=plan)).components()
    with pytest.raises(TypeError) as caught:
        make_plan(components)
    assert raised_by(caught.value) == f"{HERE}, schedule 'halving': plan() raised TypeError"


def test_an_engine_is_not_to_blame_for_what_the_core_does_in_it(tmp_path: Path) -> None:
    """A loss that gives something else later, when it is not checked any more."""
    given: list[Any] = []

    def per_sample(self: XMse, *arguments: Any) -> Any:
        given.append(XMse.per_sample(self, *arguments))
        return given[-1] if len(given) == 1 else "much"

    with pytest.raises(AttributeError) as caught:
        carry_out(tmp_path, "loss", part(XMse, per_sample=per_sample))
    assert raised_by(caught.value) is None


def test_a_class_is_named(tmp_path: Path) -> None:

    def opened(cls: type[DiffusersModel], folder: Path, table: Any) -> Any:
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        part(DiffusersModel, opened=classmethod(opened)).opened(tmp_path, {})
    assert raised_by(caught.value) == f"{HERE}, model 'diffusers': opened() raised ZeroDivisionError"


def test_checks_cost_nothing_afterwards(tmp_path: Path) -> None:
    """Once they have passed, the methods are the parts' own again."""
    seen: list[dict[str, Any]] = []

    def after_update(self: FrozenTeacher, student: Any, update: Any) -> None:
        seen.append({**vars(self), **vars(student)})

    carry_out(tmp_path, "teacher", part(FrozenTeacher, after_update=after_update), preset="tsd")
    assert len(seen) == 2
    for attributes in seen:
        assert "predict" not in attributes
        assert attributes["forward_network"].__func__ is DiffusersModel.forward


class Raising(NoTracker):
    name = "raising"

    def sync(self) -> None:
        raise OSError("no route to host")

    def finish(self, status: Status) -> None:
        raise SystemExit(f"{status}, and no way to say so")


@pytest.mark.parametrize(
    ("kind", "base", "method"),
    [("loss", XMse, "setup"), ("loss", XMse, "per_sample"), ("schedule", Halving, "shares")],
)
def test_part_that_exits_is_one_that_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, base: type[Any], method: str
) -> None:
    """sys.exit() would end the run with the exit code 0, and without a word."""

    def leave(self: Component, *given: Any) -> None:
        sys.exit()

    leave.__code__ = leave.__code__.replace(co_name=method)
    made = Config.of(with_part(tmp_path, kind, part(base, **{method: leave})))
    monkeypatch.setattr("distillkit.cli.run.read_config", lambda *_: made)
    result = CliRunner().invoke(cli, ["run", "any.toml", "--output", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)
    assert str(result.exception) == "sys.exit(None) was called"
    assert f"{HERE}, {kind} '{base.name}': {method}() raised SystemExit\n" in result.stderr


def test_tracker_that_raises_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = carry_out(tmp_path, "tracker", Raising, "run.log_every=1")
    assert len(done.journal) == 2
    assert (done.folder / "pipeline").is_dir()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("distillkit")] == [
        f"{HERE}, tracker 'raising': sync() raised OSError: no route to host; the run goes on without what the tracker "
        "has not recorded"
    ]
