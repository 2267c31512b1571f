"""Trajectories made once and kept on disk: against those made on the fly, interrupted, shared, and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from distillkit_cache.store import Store, grid_of, teacher_of
from distillkit_dsd.dsd import MergedSteps
from distillkit_guided.guided_teacher import GuidedTeacher
from distillkit_pd.frozen_teacher import FrozenTeacher
from helpers.digits import MODEL, PLAIN, TEACHER, Run, distil, settings
from safetensors.torch import load_file
from torch import Tensor

from distillkit.config import Components, evaluations_before, make_plan, read_config
from distillkit.errors import DistillkitError
from distillkit.interfaces import JumpBatch, Stage
from distillkit.noise import Condition, TablePath
from distillkit.sampling import noise_for, sample_with
from distillkit.training import assemble
from distillkit.training.assemble import Parts

COUNT, SHARD, STEPS = 20, 8, 4
SMALL = (f"source.trajectories={COUNT}", f"source.shard={SHARD}", f"schedule.steps={STEPS}", "source.batch=32")
TOP = "trajectories"
SHARDS = [f"shard-0000{i}.safetensors" for i in range(3)]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default folder is in the working directory."""
    monkeypatch.chdir(tmp_path)


@dataclass
class Begun:
    """A run that is about to make its updates."""

    parts: Parts
    work: Sequence[Callable[[], None]]

    def do(self) -> Parts:
        """Make what is missing."""
        for part in self.work:
            part()
        return self.parts

    def draw(self, seed: int = 0, stride: int = STEPS) -> JumpBatch:
        """A batch of the first stage."""
        source, path = self.parts.components.source, self.parts.student.path
        source.start_stage(Stage(STEPS, 1, stride), path)
        return source.draw(torch.Generator().manual_seed(seed))


def wanted(*options: str) -> Components:
    return settings(Path(), "luhman-cached", *SMALL, "run.updates=3", *options).components()


def begin(*options: str) -> Begun:
    parts = assemble.load(wanted(*options))
    return Begun(parts, assemble.prepare(parts))


def store(top: str = TOP) -> Path:
    """The only folder of trajectories in `top`."""
    [folder] = Path(top).iterdir()
    return folder


def files(top: str = TOP) -> dict[str, bytes]:
    """What lies in the only folder of trajectories in `top`."""
    return {file.name: file.read_bytes() for file in sorted(store(top).iterdir())}


def made(*options: str, folder: str = TOP) -> dict[str, bytes]:
    """The files of a whole cache."""
    begin(*options, f"source.folder='{folder}'").do()
    return files(folder)


# --- what is handed out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 2])
@pytest.mark.parametrize("guidance", ["1.0", "[1.0, 3.0]"])
def test_targets_are_those_made_on_the_fly(stride: int, guidance: str) -> None:
    """From the same noise, classes and scales: Luhman & Luhman's, and those of jumps in the middle of the walk."""
    begun = begin(f"source.guidance={guidance}", f"target.stride={stride}", "evaluation.steps=[1]")
    parts = begun.do()
    jumps, student, path = begun.draw(0, stride), parts.student, parts.student.path
    assert {tuple(times) for times in jumps.times.T.tolist()} == (
        {(999, 749, 499, 249, -1)} if stride == 4 else {(999, 749, 499), (499, 249, -1)}
    )
    assert (jumps.condition.guidance is None) == (guidance == "1.0")
    with torch.no_grad():
        prediction = student(jumps.z, jumps.times[0], jumps.condition)
    frozen = FrozenTeacher(FrozenTeacher.Options(renew="never"))
    frozen.setup(student)
    target, teacher = parts.components.target, parts.components.teacher
    assert target is not None
    assert teacher is not None
    with torch.no_grad():
        expected = MergedSteps(MergedSteps.Options(stride=stride)).compute(jumps, prediction, frozen, path)
        count = student.evaluations.count
        found = target.compute(jumps, prediction, teacher, path)
    assert student.evaluations.count == count
    # The batch is not the one that they were made in; guidance and the inverse step enlarge what rounding leaves.
    close = 1e-6 if guidance == "1.0" else 3e-6
    torch.testing.assert_close(found.z_next, expected.z_next, rtol=0, atol=close)
    torch.testing.assert_close(found.x0, expected.x0, rtol=0, atol=close if stride == 4 else 4 * close)


def test_trajectories_of_order_2_are_diffusers_own() -> None:
    """DPM-Solver++(2M) on the run's grid; beside those of DDIM, which stay what they are."""
    ddim, first = made(), store()
    parts = begin("source.order=2").do()
    names = sorted(path.name.rpartition("-")[0] for path in Path(TOP).iterdir())
    assert names == [f"steps-{STEPS}-stride-{STEPS}-order-{order}" for order in (1, 2)]
    [second] = (path for path in Path(TOP).iterdir() if path != first)
    assert {file.name: file.read_bytes() for file in first.iterdir()} == ddim
    shards, others = ([load_file(file) for file in sorted(top.glob("*.safetensors"))] for top in (second, first))
    model, student = parts.components.model, parts.student
    for shard, other in zip(shards, others, strict=True):
        condition = Condition.from_tensors({key: value for key, value in shard.items() if key != "states"})
        noise, end = shard["states"].unbind(1)
        stock = model.solver("dpmsolver++", STEPS, student.path)
        torch.testing.assert_close(end, sample_with(student, stock, noise, condition), rtol=0, atol=1e-5)
        assert torch.equal(noise, other["states"][:, 0])
        assert (end - other["states"][:, 1]).abs().max() > 1e-2


def test_a_trajectory_depends_on_seed_and_number_alone() -> None:
    """Whatever the shard; and it has not the noise of a picture that is scored."""
    begin("source.guidance=[1.0, 3.0]").do()
    begin("source.guidance=[1.0, 3.0]", "source.shard=5", "source.folder='fives'").do()
    begin("source.guidance=[1.0, 3.0]", "source.seed=1", "source.folder='other'").do()
    eights, fives, other = (
        [load_file(file) for file in sorted(Path(top).glob("*/*.safetensors"))]
        for top in ("trajectories", "fives", "other")
    )
    assert [len(shard["states"]) for shard in eights] == [8, 8, 4]
    assert [len(shard["states"]) for shard in fives] == [5, 5, 5, 5]

    def all_of(shards: list[dict[str, Tensor]], key: str) -> Tensor:
        return torch.cat([shard[key] for shard in shards])

    for key in ("inputs.class_labels", "null.class_labels", "guidance"):
        assert torch.equal(all_of(eights, key), all_of(fives, key))
    noise = all_of(eights, "states")[:, 0]
    assert torch.equal(noise, all_of(fives, "states")[:, 0])
    assert not torch.isin(noise, all_of(other, "states")[:, 0]).any()
    assert not torch.isin(noise, noise_for(0, range(COUNT), (1, 8, 8))).any()
    assert noise.std() == pytest.approx(1, abs=0.1)
    scales = all_of(eights, "guidance")
    assert len(scales.unique()) == COUNT
    assert 1 <= scales.min() < 1.5
    assert 2.5 < scales.max() <= 3


def test_batches_are_of_all_trajectories_and_of_no_others() -> None:
    begin().do()
    # A folder may hold more than a run asks for.
    begun = begin("source.trajectories=10")
    assert not begun.work
    known = torch.cat([load_file(store() / name)["states"] for name in SHARDS])[:10]
    drawn = torch.cat([begun.draw(seed).z for seed in range(5)])
    places = [(known[:, 0] == z).flatten(1).all(1).nonzero().item() for z in drawn]
    assert set(places) == set(range(10))
    landing, first = begun.draw(0).landing, known[places[:32], 1]
    assert landing is not None
    assert torch.equal(landing, first)


def test_global_random_state_stays() -> None:
    begun = begin("source.guidance=[1.0, 3.0]")
    before = torch.get_rng_state()
    begun.do()
    begun.draw()
    assert torch.equal(torch.get_rng_state(), before)


# --- made once -------------------------------------------------------------------------------------------------------


def test_interrupted_then_resumed_gives_the_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of writing the second shard."""
    whole = made(folder="whole")
    begun = begin()
    begun.work[0]()
    first = (store() / SHARDS[0]).stat().st_mtime_ns
    write = Path.write_bytes

    def interrupted(self: Path, content: bytes) -> int:
        write(self, content[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begun.work[1]()
    assert sorted(files()) == ["manifest.json", SHARDS[0]]
    resumed = begin()
    assert len(resumed.work) == 2
    resumed.do()
    assert files() == whole
    assert (store() / SHARDS[0]).stat().st_mtime_ns == first


def test_killed_then_resumed_gives_the_same_files() -> None:
    """A process that cannot say goodbye, while it makes what would take it very long."""
    options = ["source.trajectories=20000", "source.shard=4"]
    wanted(*options)
    command = [sys.executable, "-m", "distillkit", "run", "mine.toml"]
    for assignment in (*SMALL, "run.updates=3", *options, "evaluation.teacher=false"):
        command += ["--set", assignment]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not any(Path(TOP).glob(f"*/{SHARDS[1]}")):
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.01)
        finally:
            process.kill()
    options[0] = f"source.trajectories={4 * (len(list(store().glob('*.safetensors'))) + 3)}"
    begun = begin(*options)
    # The manifest may not have come to know the last shard.
    assert len(begun.work) in (3, 4)
    begun.do()
    found = {name: content for name, content in files().items() if not name.endswith(".partial")}
    assert found == made(*options, folder="whole")


def test_a_second_run_makes_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does it write; also with another seed, and fewer trajectories. More trajectories are added."""
    distil(Path("first"), "luhman-cached", *SMALL, "run.updates=3", "source.folder='kept'")
    before = files("kept")
    told = "cached-trajectories: 12 evaluations before the first update"
    assert told in capsys.readouterr().out
    other = ("run.seed=1", "source.trajectories=11", "source.folder='kept'")
    second = distil(Path("second"), "luhman-cached", *SMALL, "run.updates=3", *other)
    assert [line["evaluations"] for line in second.journal] == [1, 1, 1]
    assert "evaluations before" not in capsys.readouterr().out
    assert files("kept") == before
    begun = begin("source.folder='kept'", "source.trajectories=30")
    # The last shard was not full.
    assert len(begun.work) == 2
    begun.do()
    after = files("kept")
    assert [after[name] == before[name] for name in SHARDS] == [True, True, False]
    assert after == made("source.trajectories=30", folder="whole")


def test_plan_counts_what_a_new_cache_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """For each of the schedule's grids, once."""
    falling = ('schedule.type="halving"', "schedule.start=4", "schedule.cycles=2", "evaluation.steps=[1]")
    options = [option for option in SMALL if not option.startswith("schedule")]
    options += ["run.updates=8", "optimizer.accumulate=2", *falling]
    plan = make_plan(settings(Path(), "luhman-cached", *options).components())
    assert [(planned.steps, planned.updates * planned.evaluations) for planned in plan] == [(4, 4), (2, 4)] * 2
    assert evaluations_before(settings(Path(), "luhman-cached", *options).components(), plan) == 3 * (4 + 2)
    run = distil(Path("run"), "luhman-cached", *options)
    assert "18 evaluations before the first update" in capsys.readouterr().out
    assert [line["evaluations"] for line in run.journal] == [2] * 8
    names = sorted(folder.name.rpartition("-")[0] for folder in Path(TOP).iterdir())
    assert names == ["steps-2-stride-2-order-1", "steps-4-stride-4-order-1"]


def timeless(run: Run) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.journal]


@pytest.mark.parametrize("kept", [True, False], ids=["the cache is there", "the cache is gone"])
def test_a_resumed_run_is_the_same_run(kept: bool) -> None:
    """Also where it has to make the undistilled teacher's trajectories anew, with a network that was trained."""
    options = (*SMALL, "run.updates=6", "run.checkpoint_every=1", "run.keep=9", "source.guidance=[1.0, 3.0]")
    options += ('schedule.type="halving"', "schedule.start=4", "optimizer.learning_rate=1e-3", "evaluation.steps=[1]")
    options = tuple(option for option in options if option != f"schedule.steps={STEPS}")
    whole = distil(Path("whole"), "luhman-cached", *options)
    before = {file: file.read_bytes() for file in Path(TOP).glob("*/*")}
    shutil.copytree(whole.folder, "part/run")
    for later in (5, 6):
        shutil.rmtree(f"part/run/checkpoints/update-00000{later}")
    shutil.rmtree("part/run/pipeline")
    if not kept:
        shutil.rmtree("trajectories")
    part = distil(Path("part"), "luhman-cached", *options, resume=True)
    assert {file: file.read_bytes() for file in Path(TOP).glob("*/*")} == before
    assert timeless(part) == timeless(whole)
    expected = whole.weights()
    assert all(torch.equal(weight, expected[key]) for key, weight in part.weights().items())


# --- another one, and refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        "source.seed=1",
        "source.guidance=[1.0, 3.0]",
        "source.shard=4",
        "engine.precision='bf16'",
        "grid.spacing='linspace'",
        "model.scheduler={prediction_type='sample'}",
    ],
)
def test_other_trajectories_lie_beside(option: str) -> None:
    before, first = made(), store()
    begun = begin(option)
    assert len(begun.work) == len(begin(option).work) > 0
    begun.work[0]()
    assert len([*Path(TOP).iterdir()]) == 2
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before


@pytest.mark.parametrize("option", ["teacher={type='frozen', renew='never'}", "teacher.type='ema'"])
def test_teachers_with_the_same_network_share(option: str) -> None:
    """What they would have made is the same, but for the rounding of weights that need a gradient."""
    before = made()
    assert not begin(option).work
    assert files() == before
    other = load_file(Path("other") / store().name / SHARDS[1]) if made(option, folder="other") else {}
    for name, value in load_file(store() / SHARDS[1]).items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_a_teacher_that_changes_what_its_network_predicts_shares_with_none() -> None:
    student = assemble.load(wanted()).student
    teachers = [
        FrozenTeacher(FrozenTeacher.Options(renew="never")),
        FrozenTeacher(FrozenTeacher.Options(first_step="student")),
        GuidedTeacher(GuidedTeacher.Options()),
    ]
    for teacher in teachers:
        teacher.setup(student)
    # Of a network that moves, the copies stay the same.
    with torch.no_grad():
        next(student.network.parameters()).add_(1)
    frozen, same, guided = (teacher_of(student, teacher) for teacher in teachers)
    assert frozen == same != guided
    assert guided["teacher"] == "guided"


def test_the_phases_of_fashion_dmd_share() -> None:
    """They have one teacher, with one guidance and one solver."""
    config = read_config(Path(__file__).parents[1] / "configs/fashion_dmd.toml", ["source.folder=here"])
    folders = set()
    for phase in config.phases:
        parts = assemble.load(replace(phase, student=phase.student.model_copy(update={"start": None})).components())
        assemble.prepare(parts)
        folders |= {made_in.folder for made_in in parts.components.source._stores.values()}
    assert len(folders) == 1


def test_another_teachers_lie_beside() -> None:
    first = distil(Path("first"), "luhman-cached", *SMALL, "run.updates=1", "optimizer.learning_rate=1e-3")
    before, ours = files(), store()
    another = MODEL.replace(str(TEACHER), str(first.folder / "pipeline")) + PLAIN
    distil(Path("second"), "luhman-cached", *SMALL, "run.updates=1", tables=another)
    [other] = (folder for folder in Path(TOP).iterdir() if folder != ours)
    assert {file.name: file.read_bytes() for file in ours.iterdir()} == before
    origins = [json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["origin"] for folder in (ours, other)]
    assert [key for key in origins[0] if origins[0][key] != origins[1][key]] == ["weights"]


def test_another_processors_last_digit_is_no_other_path() -> None:
    path = begin().parts.student.path
    moved = TablePath(path.alphas_cumprod * (1 + 1e-6), start=path.start)  # type: ignore[attr-defined]
    assert not torch.equal(moved.alpha_sigma(torch.tensor(500))[0], path.alpha_sigma(torch.tensor(500))[0])
    assert grid_of(moved, 4) == grid_of(path, 4)
    assert grid_of(path, 4) != grid_of(path, 2)


def test_room() -> None:
    """20 trajectories of two states of 64 float32 and two classes of int64 take 10 560 bytes."""
    with pytest.raises(DistillkitError) as caught:
        begin("source.max_gigabytes=1.0559e-5")
    assert str(caught.value) == (
        "source.trajectories: 20 take 10.6 kB, and source.max_gigabytes is 1.0559e-05: 19 fit; reduce the number, "
        "or raise source.max_gigabytes"
    )
    assert not Path("trajectories").exists()
    begin("source.max_gigabytes=1.0561e-5").do()
    assert sum(tensor.nbytes for name in SHARDS for tensor in load_file(store() / name).values()) == 10_560


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_shard_is_named(damage: str) -> None:
    before = made()
    file = store() / SHARDS[1]
    content = before[file.name]
    file.write_bytes(content[:-7] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DistillkitError) as caught:
        begin()
    assert str(caught.value) == (
        f"{file}: is damaged (its SHA-256 is not that in manifest.json); delete it, and it is generated again"
    )
    file.unlink()
    begin().do()
    assert files() == before


def test_two_runs_that_fill_one_cache_keep_each_others_shards() -> None:
    one, other = (Store(Path(TOP), "steps", {"weights": "a"}) for _ in range(2))
    one.write(0, {"states": torch.zeros(2, 3)})
    other.write(0, {"states": torch.ones(2, 3)})
    other.write(1, {"states": torch.ones(2, 3)})
    one.write(2, {"states": torch.zeros(2, 3)})
    again = Store(Path(TOP), "steps", {"weights": "a"})
    assert all(again.has(shard, 2) for shard in range(3))
    assert again.read(0)["states"].sum() == 0, "what is there already stays"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"origin": null, "shards": {}}',
        '{"origin": [], "shards": {}}',
        '{"origin": {}, "shards": {"a": 1}}',
        '{"origin": {}, "shards": {}, "format": 2}',
    ],
)
def test_a_manifest_that_is_none(text: str) -> None:
    made()
    (store() / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DistillkitError, match=r"cannot be read as a manifest of trajectories \(.*\); delete "):
        begin()


def test_a_folder_that_cannot_be_written() -> None:
    begun = begin("source.folder='taken'")
    Path("taken").touch()
    with pytest.raises(DistillkitError, match=r"^taken/steps-4-stride-4-order-1-[0-9a-f]{8}: cannot be written "):
        begun.do()
    with pytest.raises(DistillkitError) as caught:
        begin("source.folder='taken'")
    assert str(caught.value).endswith("source.folder: taken is a file; give a folder, which need not exist yet")
