"""A run that goes on from a checkpoint is the run that was never stopped, bit for bit."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits import Run, distil, settings
from distillkit_mlflow.none import NoTracker
from safetensors.torch import load_file

from distillkit.errors import DistillkitError
from distillkit.interfaces import RunInfo
from distillkit.training.run import run

# Three stages (8, 4, 2 steps) and a checkpoint after every update.
RUN = ("run.updates=12", "run.checkpoint_every=1", "run.keep=99", "source.batch=3", "ema.decay=0.9")
FALLING = ("schedule.start=8",)
STAGGERED = ("source.staggered=true", "source.guidance=[1.0, 3.0]")
LORA = ("student.adapter=lora", "student.rank=4", "optimizer.learning_rate=1e-3")

CASES = {
    "self": ("dsdi", (*FALLING, 'teacher.type="self"')),
    "self, staggered, guided": ("dsdi", (*FALLING, *STAGGERED, 'teacher.type="self"')),
    "ema, staggered, guided": ("dsdi", (*FALLING, *STAGGERED, 'teacher.type="ema"', "teacher.decay=0.9")),
    "frozen, renewed": ("tsd", (*FALLING, "optimizer.learning_rate=1e-3")),
    "frozen, never renewed": ("luhman", ("schedule.steps=4", "ema.warmup=true")),
    "a target that walks, staggered, guided": ("matching", ("schedule.steps=8", "target.stride=2", *STAGGERED)),
    "data, accumulating": ("pd", (*FALLING, "optimizer.accumulate=2", "source.drop_labels=0.2")),
    "training DSD, a ramp": ("dsd-training", ("schedule.steps=8", "loss[1].weight={from=0.0, to=0.5, updates=7}")),
    "training DSD, fresh noise": ("dsd-training", ("target.type='noisier-step'", "optimizer.accumulate=2")),
    "data, rate anew in each stage": ("pd", (*FALLING, "optimizer.decay='stage'", "optimizer.shape='linear'")),
    "LoRA, frozen, renewed": ("tsd", (*FALLING, *LORA)),
    "LoRA, ema": ("dsdi", (*FALLING, *LORA, 'teacher.type="ema"', "teacher.decay=0.9")),
    "LoRA, an average in the target": ("consistency", ("schedule.steps=8", "evaluation.sampler='ddim'", *LORA)),
    "trajectory, accumulating": ("dsdi", (*FALLING, "optimizer.accumulate=2", 'teacher.type="self"')),
}


def timeless(run: Run) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.journal]


def state(run: Run, update: int) -> dict[str, torch.Tensor]:
    return load_file(run.folder / f"checkpoints/update-{update:06d}/state.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_is_the_same_run(tmp_path: Path, case: str) -> None:
    preset, options = CASES[case]
    whole = distil(tmp_path / "whole", preset, *RUN, *options)
    positions = [json.loads(file.read_text()) for file in sorted(whole.folder.glob("checkpoints/*/position.json"))]
    # In the middle of a stage, at the end of one, and at the end of all.
    within = next(p["update"] for p, q in itertools.pairwise(positions) if p["stage"] == q["stage"])
    ends = [p["update"] for p, q in itertools.pairwise(positions) if p["stage"] != q["stage"]]
    for update in {within, ends[0], 12}:
        folder = tmp_path / f"from-{update}"
        shutil.copytree(whole.folder, folder / "run")
        for later in range(update + 1, 13):
            shutil.rmtree(folder / f"run/checkpoints/update-{later:06d}")
        shutil.rmtree(folder / "run/pipeline")
        resumed = distil(folder, preset, *RUN, *options, resume=True)
        assert timeless(resumed) == timeless(whole)
        expected, found = state(whole, 12), state(resumed, 12)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
        exported = whole.weights()
        assert all(torch.equal(weight, exported[key]) for key, weight in resumed.weights().items())
    owners = {key.split("/")[1].split(".")[0] for key in expected if key.startswith("engine/")}
    assert owners == {"updates", "network", "average", "optimizer"}


@pytest.mark.parametrize("student", [(), LORA], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("renew", ["stage", "never"])
def test_frozen_teacher_becomes_the_student_at_a_stages_end(
    tmp_path: Path, renew: str, student: tuple[str, ...]
) -> None:
    whole = distil(tmp_path, "tsd", *RUN, "schedule.start=4", "run.updates=6", f'teacher.renew="{renew}"', *student)
    stages = [line["stage"] for line in whole.journal]
    assert sorted(set(stages)) == [0, 1]
    border = stages.index(1)
    last, first = state(whole, border), state(whole, border + 1)
    teachers = [{key: value for key, value in at.items() if key.startswith("teacher/")} for at in (last, first)]
    renewed = {key.replace("teacher", "engine"): value for key, value in teachers[1].items()}
    assert all(torch.equal(value, last[key]) for key, value in renewed.items()) == (renew == "stage")
    assert all(torch.equal(value, teachers[0][key]) for key, value in teachers[1].items()) == (renew == "never")


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    options = ["run.updates=2", "source.batch=2", "schedule.start=4"]
    whole = distil(tmp_path / "a", "dsdi", *options)
    shutil.copytree(whole.folder, tmp_path / "b/run")
    shutil.rmtree(tmp_path / "b/run/checkpoints")
    resumed = distil(tmp_path / "b", "dsdi", *options, resume=True)
    assert timeless(resumed) == timeless(whole)
    assert all(torch.equal(weight, whole.weights()[key]) for key, weight in resumed.weights().items())


def test_checkpoints_that_are_kept(tmp_path: Path) -> None:
    options = ["run.updates=7", "run.checkpoint_every=2", "run.keep=3", "source.batch=2", "schedule.start=4"]
    whole = distil(tmp_path, "dsdi", *options)
    kept = [file.name for file in sorted((whole.folder / "checkpoints").iterdir())]
    assert kept == ["update-000004", "update-000006", "update-000007"]


OPTIONS = ("run.updates=2", "source.batch=2", "schedule.start=4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("finished"), "dsdi", *OPTIONS)


def test_a_new_run_does_not_overwrite(finished: Run) -> None:
    before = {file: file.read_bytes() for file in finished.folder.rglob("*") if file.is_file()}
    with pytest.raises(DistillkitError) as caught:
        distil(finished.folder.parent, "dsdi", *OPTIONS)
    assert str(caught.value) == (
        f"{finished.folder}: already holds a run; nothing was overwritten. Give another folder with --output, another "
        "run.name, or go on with --resume"
    )
    assert before == {file: file.read_bytes() for file in finished.folder.rglob("*") if file.is_file()}


class Absent(NoTracker):
    """A tracker whose server is away."""

    name = "absent"

    def start(self, run: RunInfo) -> None:
        raise ConnectionError("nobody answers")


def test_a_tracker_that_cannot_start_leaves_no_folder(tmp_path: Path) -> None:
    wanted = settings(tmp_path, "dsdi", *OPTIONS)
    with pytest.raises(ConnectionError, match="nobody answers"):
        run(replace(wanted, tracker=Absent(Absent.Options())), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert len(distil(tmp_path, "dsdi", *OPTIONS).journal) == 2


def test_a_tracker_that_cannot_start_again_leaves_the_run(finished: Run, tmp_path: Path) -> None:
    wanted = settings(tmp_path, "dsdi", *OPTIONS)
    before = {file: file.read_bytes() for file in finished.folder.rglob("*") if file.is_file()}
    with pytest.raises(ConnectionError, match="nobody answers"):
        run(replace(wanted, tracker=Absent(Absent.Options())), finished.folder, resume=True)
    assert before == {file: file.read_bytes() for file in finished.folder.rglob("*") if file.is_file()}


def test_resuming_with_another_config(finished: Run, tmp_path: Path) -> None:
    changed = settings(tmp_path, "dsdi", *OPTIONS, "run.seed=3", "source.batch=5", "optimizer.clip=2.0")
    with pytest.raises(DistillkitError) as caught:
        run(changed, finished.folder, resume=True)
    assert str(caught.value) == (
        f"{finished.folder}: the config has changed since the run began, in optimizer.clip, run.seed, source.batch; "
        f"resume with the run's own: distillkit run {finished.folder}/config.toml --output {finished.folder} --resume"
    )


def test_resuming_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        run(settings(tmp_path, "dsdi", *OPTIONS), tmp_path / "no", resume=True)
    assert str(caught.value) == f"{tmp_path}/no: holds no run to resume (no config.toml)"


def test_a_broken_checkpoint(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/update-000002"
    (newest / "state.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DistillkitError, match=rf"^{newest}: this checkpoint cannot be read \(.*\); delete it to use "):
        distil(tmp_path, "dsdi", *OPTIONS, resume=True)
