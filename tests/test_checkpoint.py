"""A run that goes on from a checkpoint is the run that was never stopped, bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.digits import Run, distil, read_checkpoint, settings

from distillkit.config import Choice, Config
from distillkit.errors import DistillkitError
from distillkit.interfaces import NoTracker, RunInfo
from distillkit.training import checkpoint, manifest
from distillkit.training.assemble import load, prepare
from distillkit.training.folder import RunFolder
from distillkit.training.run import run

# Three stages (8, 4, 2 steps) and a checkpoint after every update.
RUN = ("run.updates=12", "run.checkpoint_every=1", "run.keep=99", "source.batch=3", "ema.decay=0.9")
FALLING = ("schedule.start=8",)
STAGGERED = ("source.staggered=true", "source.guidance=[1.0, 3.0]")
LADDER = ("schedule.steps=8", "target.stride=2", "source.levels=[1, 2, 4]", "source.level_weights=[1, 2, 1]")
LORA = ("student.adapter=lora", "student.rank=4", "optimizer.learning_rate=1e-3")
CRITIC = ("schedule.steps=4", "source.levels=[1, 2, 4]", "source.level_weights=[1, 1, 1]", "source.trajectories=8")
ROLLOUT = (
    "target.type=none",
    "loss=[{type='distribution-matching'}]",
    "source={type='rollout', levels=[1, 2, 3], guidance=[1.0, 3.0]}",
    "critic.updates=1",
)
BAKED = ("student.guidance=baked", "source.guidance=[1.0, 3.0]")

CASES = {
    "self": ("dsdi", (*FALLING, 'teacher.type="self"')),
    "self, staggered, guided": ("dsdi", (*FALLING, *STAGGERED, 'teacher.type="self"')),
    "ema, staggered, guided": ("dsdi", (*FALLING, *STAGGERED, 'teacher.type="ema"', "teacher.decay=0.9")),
    "frozen, renewed": ("tsd", (*FALLING, "optimizer.learning_rate=1e-3")),
    "frozen, never renewed": ("luhman", ("schedule.steps=4", "ema.warmup=true")),
    "a target that walks, staggered, guided": ("matching", ("schedule.steps=8", "target.stride=2", *STAGGERED)),
    "walks of all levels": ("shortcut", LADDER),
    "data, accumulating": ("pd", (*FALLING, "optimizer.accumulate=2", "source.drop_labels=0.2")),
    "training DSD, a ramp": ("dsd-training", ("schedule.steps=8", "loss[1].weight={from=0.0, to=0.5, updates=7}")),
    "training DSD, fresh noise": ("dsd-training", ("target.type='noisier-step'", "optimizer.accumulate=2")),
    "data, rate and moments anew in each stage": (
        "pd",
        (*FALLING, "optimizer.decay='stage'", "optimizer.shape='linear'", "optimizer.moments='stage'"),
    ),
    "told step size and guidance": ("pd", (*FALLING, "model.step_input=true", *BAKED)),
    "LoRA, frozen, renewed, told guidance": ("tsd", (*FALLING, *LORA, *BAKED)),
    "LoRA, ema": ("dsdi", (*FALLING, *LORA, 'teacher.type="ema"', "teacher.decay=0.9")),
    "LoRA, an average in the target": ("consistency", ("schedule.steps=8", "evaluation.sampler='ddim'", *LORA)),
    "critic": ("dmd", (*CRITIC, "critic.warmup=0.3")),
    "critic, accumulating": ("sid", (*CRITIC, "optimizer.accumulate=2", "critic.optimizer.accumulate=2")),
    "LoRA, critic": ("dmd", (*CRITIC, *LORA, "critic.warmup=0.3")),
    "critic alone, walks of the student's": ("dmd", ROLLOUT),
    "trajectory, accumulating": ("dsdi", (*FALLING, "optimizer.accumulate=2", 'teacher.type="self"')),
}
AT_THE_END = ("self", "LoRA, ema")


def timeless(run: Run) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.journal]


def state(run: Run, update: int) -> dict[str, torch.Tensor]:
    return read_checkpoint(run.folder / f"checkpoints/update-{update:06d}")


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_is_the_same_run(tmp_path: Path, case: str) -> None:
    preset, options = CASES[case]
    whole = distil(tmp_path / "whole", preset, *RUN, *options)
    positions = [json.loads(file.read_text()) for file in sorted(whole.folder.glob("checkpoints/*/position.json"))]
    # In the middle of a stage, at the end of one, if there is a next, and at the end of all, where only the export is
    # left.
    within = next(p["update"] for p, q in itertools.pairwise(positions) if p["stage"] == q["stage"])
    ends = [p["update"] for p, q in itertools.pairwise(positions) if p["stage"] != q["stage"]]
    last = [12] if case in AT_THE_END else []
    for update in {within, *ends[:1], *last}:
        folder = tmp_path / f"from-{update}"
        shutil.copytree(whole.folder, folder / "run")
        for later in range(update + 1, 13):
            shutil.rmtree(folder / f"run/checkpoints/update-{later:06d}")
        shutil.rmtree(folder / "run/pipeline")
        resumed = distil(folder, preset, *RUN, "run.checkpoint_every=12", *options, resume=True)
        assert timeless(resumed) == timeless(whole)
        expected, found = state(whole, 12), state(resumed, 12)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
        exported = whole.weights()
        assert all(torch.equal(weight, exported[key]) for key, weight in resumed.weights().items())
    owners = {key.split("/")[1].split(".")[0] for key in expected if key.startswith("engine/")}
    assert owners - {"critic"} == {"updates", "network", "average", "optimizer"}
    assert ("critic" in owners) == ("critic" in case)


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


@pytest.mark.parametrize("moments", ["run", "stage"])
def test_adams_steps_are_those_of_the_run_or_of_the_stage(tmp_path: Path, moments: str) -> None:
    whole = distil(tmp_path, "tsd", *RUN, "schedule.start=4", "run.updates=5", f"optimizer.moments={moments}")
    stages = [line["stage"] for line in whole.journal]
    assert stages == [0, 0, 1, 1, 1]
    for update, within in enumerate([1, 2, 1, 2, 3], 1):
        steps = {value.item() for key, value in state(whole, update).items() if "/optimizer.step." in key}
        assert steps == {update if moments == "run" else within}


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    options = ["run.updates=2", "source.batch=2", "schedule.start=4"]
    whole = distil(tmp_path / "a", "dsdi", *options)
    shutil.copytree(whole.folder, tmp_path / "b/run")
    shutil.rmtree(tmp_path / "b/run/checkpoints")
    shutil.rmtree(tmp_path / "b/run/pipeline")
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


def absent(folder: Path) -> Config:
    made = settings(folder, "dsdi", *OPTIONS)
    return Config.of(replace(made, choices={**made.choices, "tracker": [Choice(Absent, Absent.Options())]}))


def test_a_tracker_that_cannot_start_leaves_no_folder(tmp_path: Path) -> None:
    wanted = absent(tmp_path)
    with pytest.raises(ConnectionError, match="nobody answers"):
        run(wanted, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert len(distil(tmp_path, "dsdi", *OPTIONS).journal) == 2


def test_a_tracker_that_cannot_start_again_leaves_the_run(finished: Run, tmp_path: Path) -> None:
    wanted = absent(tmp_path)
    before = {file: file.read_bytes() for file in finished.folder.rglob("*") if file.is_file()}
    with pytest.raises(ConnectionError, match="nobody answers"):
        run(wanted, finished.folder, resume=True)
    assert before == {file: file.read_bytes() for file in finished.folder.rglob("*") if file.is_file()}


def test_resuming_with_another_config(finished: Run, tmp_path: Path) -> None:
    changed = settings(tmp_path, "dsdi", *OPTIONS, "run.seed=3", "source.batch=5", "optimizer.clip=2.0")
    with pytest.raises(DistillkitError) as caught:
        run(Config.of(changed), finished.folder, resume=True, allow=["source"])
    assert str(caught.value) == (
        f"{finished.folder}: the config has changed since the run began, in optimizer.clip, run.seed; "
        f"resume with the run's own config: distillkit run {finished.folder}/config.toml --output {finished.folder} "
        "--resume; or allow the change: --allow-change optimizer.clip --allow-change run.seed"
    )


def stopped(folder: Path, *options: str) -> Run:
    """A run of four updates in one stage, as it was after the second."""
    four = ("run.updates=4", "source.batch=2", "schedule.steps=4", "run.checkpoint_every=2", *options)
    whole = distil(folder, "dsdn", *four)
    shutil.rmtree(whole.folder / "pipeline")
    shutil.rmtree(whole.folder / "checkpoints/update-000004")
    return whole


def test_what_cannot_matter_may_change(tmp_path: Path) -> None:
    whole = stopped(tmp_path)
    weights = state(whole, 2)
    free = ("run.keep=9", "run.log_every=1", "run.checkpoint_every=1", "run.checkpoint_minutes=0")
    distil(tmp_path, "dsdn", "run.updates=4", "source.batch=2", "schedule.steps=4", *free, resume=True)
    assert [file.name for file in sorted((whole.folder / "checkpoints").iterdir())] == [
        *("update-000002", "update-000003", "update-000004")
    ]
    assert not torch.equal(state(whole, 4)["engine/network.conv_in.weight"], weights["engine/network.conv_in.weight"])


def test_a_change_that_is_allowed_is_made(tmp_path: Path) -> None:
    """The third update is the first of the new learning rate, and config.toml is the new one."""
    whole = stopped(tmp_path)
    wanted = settings(
        tmp_path, "dsdn", "run.updates=6", "source.batch=2", "schedule.steps=4", "optimizer.learning_rate=0.5"
    )
    run(Config.of(wanted), whole.folder, resume=True, allow=["run.updates", "optimizer.learning_rate"])
    rates = [line["learning_rate"] for line in whole.journal]
    assert len(rates) == 6
    assert max(rates[:2]) < 1e-3
    assert rates[2] > 0.1
    written = (whole.folder / "config.toml").read_text(encoding="utf-8")
    assert "learning_rate = 0.5" in written


def test_changes_that_do_not_fit(tmp_path: Path) -> None:
    whole = stopped(tmp_path)
    base = ("run.updates=4", "source.batch=2", "schedule.steps=4")
    newest = whole.folder / "checkpoints/update-000002"
    config = (whole.folder / "config.toml").read_bytes()
    position = json.loads((newest / "position.json").read_text(encoding="utf-8"))
    assert position["plan"] == [{"steps": 4, "stride": 2, "updates": 4}]
    for change, said in {
        "source.batch=3": f"{newest}: was written with 2 samples per batch (source.batch times processes), and this",
        "run.updates=1": f"{newest}: the stages were N = 4 (stride 2, updates 4), and are N = 4 (stride 2, updates 1",
        "schedule.steps=8": f"{newest}: the stages were N = 4 (stride 2, updates 4), and are N = 8 (stride 2, upda",
        "student.adapter=lora": f"{newest}: does not fit the config: 'network.",
    }.items():
        with pytest.raises(DistillkitError) as caught:
            run(
                Config.of(settings(tmp_path, "dsdn", *base, change)),
                whole.folder,
                resume=True,
                allow=[change.partition(".")[0]],
            )
        assert str(caught.value).startswith(said)
    assert (whole.folder / "config.toml").read_bytes() == config


def test_another_engine_or_number_of_processes(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the manifest has them."""
    parts = load(settings(tmp_path, "dsdi", *OPTIONS).components())
    prepare(parts)
    newest = finished.folder / "checkpoints/update-000002"
    assert checkpoint.find(newest.parent, parts, print) is not None
    monkeypatch.setattr(type(parts.components.engine), "layout", "FSDP2 in 4 processes")
    sharded = r"its state is sharded differently \(replicated\) from this run's \(FSDP2 in 4 "
    with pytest.raises(DistillkitError, match=sharded):
        checkpoint.find(newest.parent, parts, print)
    monkeypatch.setattr(type(parts.components.engine), "name", "other")
    with pytest.raises(DistillkitError, match="was written by the engine 'torch', whose state 'other' cannot load"):
        checkpoint.find(newest.parent, parts, print)


def test_resuming_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        run(Config.of(settings(tmp_path, "dsdi", *OPTIONS)), tmp_path / "no", resume=True)
    assert str(caught.value) == f"{tmp_path}/no: holds no run to resume (no config.toml)"


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


RANK, STATE, POSITION, MANIFEST = "rank-00000.safetensors", "state.safetensors", "position.json", "manifest.json"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte flipped": (lambda folder: flip(folder / RANK), f"{RANK} has changed: its SHA-256 differs"),
    "a byte of the state": (lambda folder: flip(folder / STATE), f"{STATE} has changed: its SHA-256 differs"),
    "a byte of the position": (lambda folder: flip(folder / POSITION), f"{POSITION} has changed: its SHA-256 differs"),
    "truncated": (lambda folder: os.truncate(folder / RANK, 1000), f"{RANK} has 1000 bytes instead of "),
    "a file missing": (lambda folder: (folder / STATE).unlink(), f"{STATE} is missing"),
    "the manifest missing": (lambda folder: (folder / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "the manifest truncated": (lambda folder: os.truncate(folder / MANIFEST, 99), f"{MANIFEST} cannot be read: "),
    "the manifest a list": (
        lambda folder: (folder / MANIFEST).write_text("[]"),
        f"{MANIFEST} cannot be read: it is no JSON object",
    ),
    "the manifest nested deep": (
        lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
        f"{MANIFEST} cannot be read: ",
    ),
    "the manifest of nothing": (lambda folder: (folder / MANIFEST).write_text("{}"), f"{MANIFEST} cannot be read: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    pair: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    shutil.copytree(pair.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/pipeline")
    newest = tmp_path / "run/checkpoints/update-000002"
    do, said = DAMAGES[damage]
    do(newest)
    resumed = distil(tmp_path, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)
    assert f"warning: {newest}: this checkpoint is damaged ({said}" in capsys.readouterr().out
    assert timeless(resumed) == timeless(pair)
    found, expected = state(resumed, 2), state(pair, 2)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with two checkpoints."""
    return distil(tmp_path_factory.mktemp("pair"), "dsdi", *OPTIONS, "run.checkpoint_every=1")


def test_no_checkpoint_that_is_whole(pair: Run, tmp_path: Path) -> None:
    """Never a silent start from zero."""
    shutil.copytree(pair.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/pipeline")
    for folder in (tmp_path / "run/checkpoints").iterdir():
        flip(folder / RANK)
    before = contents(tmp_path / "run")
    with pytest.raises(DistillkitError) as caught:
        distil(tmp_path, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)
    assert str(caught.value) == (
        f"{tmp_path}/run/checkpoints: all checkpoints are damaged (2): restore one from a backup, or start again "
        "in another folder with --output"
    )
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("text", ["[]", '{"update": "2"}', '{"update": 2}'])
def test_a_position_that_no_run_writes(pair: Run, tmp_path: Path, text: str) -> None:
    """With the hash of just that."""
    shutil.copytree(pair.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/pipeline")
    newest = tmp_path / "run/checkpoints/update-000002"
    (newest / POSITION).write_text(text, encoding="utf-8")
    about = manifest.read(newest)
    manifest.write(newest, about.pop("files") | manifest.entries(newest, [POSITION]), about)
    with pytest.raises(DistillkitError) as caught:
        distil(tmp_path, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)
    assert str(caught.value) == (
        f"{newest}: this checkpoint is damaged ({POSITION} is not what a run writes): restore it from a backup, or "
        "delete it, and the run goes on from the one before"
    )


def test_a_journal_that_lacks_lines(pair: Run, tmp_path: Path) -> None:
    shutil.copytree(pair.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/pipeline")
    os.truncate(tmp_path / "run/journal.jsonl", (tmp_path / "run/journal.jsonl").stat().st_size - 3)
    with pytest.raises(DistillkitError, match="has 1 complete lines, but the checkpoint was written after update 2:"):
        distil(tmp_path, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_finished_run_is_said_to_be_finished(pair: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(pair.folder)
    distil(pair.folder.parent, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)
    assert capsys.readouterr().out.splitlines()[0] == f"{pair.folder}: this run is finished"
    assert contents(pair.folder) == before


def test_a_second_run_is_kept_out(pair: Run, tmp_path: Path) -> None:
    with RunFolder(pair.folder) as first:
        first.open(settings(tmp_path, "dsdi", *OPTIONS, "run.checkpoint_every=1").tables)
        with pytest.raises(DistillkitError) as caught:
            distil(pair.folder.parent, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)
    assert str(caught.value) == (
        f"{pair.folder}: another run is using this folder; wait until it has ended, stop it, or give another folder "
        "with --output"
    )
    distil(pair.folder.parent, "dsdi", *OPTIONS, "run.checkpoint_every=1", resume=True)


def test_a_checkpoint_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute passes whenever it is asked whether one is due."""
    clock = SimpleNamespace(monotonic=itertools.count(step=60).__next__)
    monkeypatch.setattr("distillkit.training.train.time", clock)
    whole = distil(tmp_path, "dsdi", *OPTIONS, "run.updates=6", "run.keep=9", "run.checkpoint_minutes=2")
    kept = [file.name for file in sorted((whole.folder / "checkpoints").iterdir())]
    assert kept == ["update-000002", "update-000004", "update-000006"]
