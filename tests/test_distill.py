"""`distillkit distill`, from a folder to a pipeline, in seconds."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from helpers.digits import TEACHER, Run
from helpers.networks import ddpm_pipeline
from helpers.text_pipelines import sd3
from safetensors.torch import load_file

from distillkit.cli.group import cli
from distillkit.config import read_config

ARGUMENTS = (
    "--steps",
    "2",
    "--updates",
    "6",
    "--guidance",
    "2",
    "--set",
    "tracker.type=none",
    "--set",
    "source.batch=2",
    "--set",
    "source.trajectories=8",
)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["distill", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    folder = tmp_path_factory.mktemp("distill") / "run"
    result = call(TEACHER, *ARGUMENTS, "--set", "evaluation.grid=2", "--output", folder)
    assert result.exit_code == 0, result.output
    return Run(folder), result


def test_it_leaves_a_run(done: tuple[Run, Result]) -> None:
    run, _ = done
    assert len(run.journal) == 6
    assert sorted(file.name for file in (run.folder / "samples").iterdir()) == [
        f"steps-{steps:03d}.png" for steps in (1, 2, 4, 8)
    ]
    assert (run.folder / "scores.json").read_text(encoding="utf-8") == "[]\n"
    card = (run.folder / "pipeline/README.md").read_text(encoding="utf-8")
    for line in ("- Method: `any-step`, 6 updates", f"- Made from: {TEACHER}"):
        assert line in card.splitlines()
    assert "- Guidance: inside the network, at scale 2: call the pipeline without guidance" in card
    assert "samples in **2 steps**" in card
    assert "LoRA" not in card
    teacher = load_file(TEACHER / "unet/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(weight, teacher[name].float()) for name, weight in run.weights().items())


def test_it_sharpens_in_a_second_phase(tmp_path: Path) -> None:
    """On one copy of the weights, where that is wanted; with a share of the updates. Its config makes the run again."""
    lora = ("--set", "student.adapter=lora", "--set", "student.rank=2", "--set", "evaluation.grid=2")
    result = call(TEACHER, *ARGUMENTS, *lora, "--sharpen", "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    journal = Run(tmp_path / "run").journal
    assert [line["phase"] for line in journal] == [1] * 6 + [2] * 3
    assert "critic_loss" in journal[-1]
    assert [line["evaluations"] for line in journal] == [1] * 6 + [1 + 1 + 1 + 2] * 3
    assert "student   lora, rank 2: student and critic are adapters on one copy of the weights; " in result.stdout
    assert len([*(tmp_path / "run/lora").iterdir()]) == 2
    config = read_config(tmp_path / "run/config.toml")
    assert [phase.start for phase in config.phases] == [None, Path("previous")]


def test_it_says_what_it_does(done: tuple[Run, Result]) -> None:
    run, result = done
    lines = result.stdout.splitlines()
    said = {line[:10].strip(): line[10:] for line in lines[:10]}
    assert said["model"] == "ClassConditionalPipeline, 45.3 k parameters"
    rate = re.escape(f"{5e-4 * (1_220_000 / 45_321) ** 0.5:.2g}")
    assert re.fullmatch(rf"any-step: 6 updates, batches of 2, learning rate {rate} to 0\.00026", said["method"])
    assert said["stages"] == "N = 8: for 1, 2, 3, 4, 5, 6, 8 steps; 6 network evaluations, and 8 before them"
    assert said["guidance"] == "2, inside the student: one evaluation a step"
    assert re.fullmatch(r"torch on (cpu|cuda), precision auto, gradient checkpointing off", said["engine"])
    # 20 bytes for each of 45 321 parameters.
    assert re.match(r"906 kB of [\d.]+ GB: 906 kB for training, 0 bytes for teachers, ", said["memory"])
    assert f"distillkit plan {run.folder}/config.toml --measure" in result.stdout
    assert f"distillkit evaluate {run.folder} --steps 1,2,4,8 " in result.stdout
    assert lines[-1] == f"pipeline: {run.folder}/pipeline   samples: {run.folder}/samples"


def test_the_config_is_the_same_run_again(done: tuple[Run, Result], tmp_path: Path) -> None:
    run, _ = done
    again = CliRunner().invoke(
        cli, ["run", str(run.folder / "config.toml"), "--output", str(tmp_path / "run")], catch_exceptions=False
    )
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run/config.toml").read_bytes() == (run.folder / "config.toml").read_bytes()
    weights = Run(tmp_path / "run").weights()
    assert all(torch.equal(weight, weights[name]) for name, weight in run.weights().items())


def test_it_is_not_guided_again(done: tuple[Run, Result], tmp_path: Path) -> None:
    words = ["sample", str(done[0].folder), "--guidance", "2", "--output", str(tmp_path / "grid.png")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert result.stderr == "guidance: the student has guidance inside, at scale 2; leave it out\n"
    assert not (tmp_path / "grid.png").exists()


def test_what_came_of_it_is_distilled_further(done: tuple[Run, Result], tmp_path: Path) -> None:
    """By the run's folder; without guidance, which is in the network."""
    run, _ = done
    file = tmp_path / "further.toml"
    assert call(run.folder, "--steps", "1", "--write", file).exit_code == 0
    [settings] = read_config(file).phases
    assert settings.tables["model"]["path"] == str(run.folder / "pipeline")
    assert (settings.run.name, settings.evaluation.guidance) == ("pipeline-1-step", 1.0)


def test_a_config_is_written_and_nothing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(TEACHER, "--write", "mine.toml")
    assert result.exit_code == 0, result.output
    assert [file.name for file in tmp_path.iterdir()] == ["mine.toml"]
    [settings] = read_config(Path("mine.toml")).phases
    assert settings.tables == tomllib.loads(Path("mine.toml").read_text(encoding="utf-8"))
    assert (settings.run.name, settings.run.updates, settings.evaluation.export_steps) == (
        "digits_teacher-4-steps",
        600,
        4,
    )
    assert "distillkit plan mine.toml --measure" in result.stdout


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("mine.toml", "mine.toml: already exists; nothing was overwritten. Give a new file with --write"),
        (".", ".: already exists; nothing was overwritten. Give a new file with --write"),
        ("no/mine.toml", "no/mine.toml: there is no folder no; make it, or give another file with --write"),
    ],
)
def test_a_config_that_cannot_be_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, message: str
) -> None:
    """It is said before the plan is made."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").touch()
    result = call(TEACHER, "--write", file)
    assert (result.exit_code, result.output) == (2, f"{message}\n")


@pytest.mark.parametrize(
    ("method", "spacing", "stages"),
    [
        ("any-step", "karras-8", "N = 8: for 1, 2, 3, 4, 5, 6, 8 steps; 600 network evaluations"),
        ("shortcut", "trailing + angle", "N = 32: for 1, 2, 4, 8 steps; 4200 network evaluations"),
    ],
)
def test_one_student_for_every_number_of_steps(tmp_path: Path, method: str, spacing: str, stages: str) -> None:
    """Guidance is inside the student."""
    words = ("--method", method, "--steps", "3", "--write", str(tmp_path / "mine.toml"))
    result = call(TEACHER, *words, "--guidance", "1.5")
    assert result.exit_code == 0, result.output
    config = tomllib.loads((tmp_path / "mine.toml").read_text(encoding="utf-8"))
    assert (config["evaluation"]["steps"], config["evaluation"]["export_steps"]) == ([1, 2, 3, 4, 8], 3)
    assert (config["student"]["guidance"], config["source"]["guidance"]) == ("baked", 1.5)
    assert (config["evaluation"]["guidance"], config["evaluation"]["teacher_guidance"]) == (1.0, [1.5, 1.25, 1.0])
    assert config["model"]["step_input"]
    assert config["grid"]["spacing"] == config["source"].get("spacing", spacing) == spacing
    assert f"stages    {stages}" in result.output
    assert "guidance  1.5, inside the student: one evaluation a step" in result.output
    deep = call(TEACHER, "--method", method, "--steps", "16")
    assert deep.exit_code == 2
    assert f"--steps: is 16, and '{method}' teaches 8 at the most; expected fewer" in deep.output


@pytest.mark.parametrize(("given", "sampled"), [((), 1.0), (("--guidance", "2"), 2.0)])
def test_a_range_of_scales_is_baked(tmp_path: Path, given: tuple[str, ...], sampled: float) -> None:
    config = tmp_path / "mine.toml"
    assert call(TEACHER, *given, "--set", "source.guidance=[1.0,3.0]", "--write", config).exit_code == 0
    tables = tomllib.loads(config.read_text(encoding="utf-8"))
    assert (tables["student"]["guidance"], tables["source"]["guidance"]) == ("baked", [1.0, 3.0])
    assert tables["evaluation"]["guidance"] == sampled


@pytest.mark.parametrize(
    ("save", "given", "spacings"),
    [
        (ddpm_pipeline, (), ("trailing", "karras-8")),
        (ddpm_pipeline, ("--set", "grid.spacing=leading"), ("leading", "karras-8")),
        (sd3, (), ("trailing", "trailing")),
    ],
)
def test_grids_that_a_model_cannot_have(
    tmp_path: Path, save: Callable[[Path], object], given: tuple[str, ...], spacings: tuple[str, str]
) -> None:
    """A DDPMPipeline is not handed times, but its teacher's trajectories can have them; a flow has no Karras grids."""
    save(tmp_path / "teacher")
    config = tmp_path / "mine.toml"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n", encoding="utf-8")
    words = ("--prompts", prompts) if save is sd3 else ()
    result = call(tmp_path / "teacher", "--method", "any-step", *given, *words, "--write", config)
    assert result.exit_code == 0, result.output
    tables = tomllib.loads(config.read_text(encoding="utf-8"))
    assert (tables["grid"]["spacing"], tables["source"]["spacing"]) == spacings


def test_the_time_is_measured(tmp_path: Path) -> None:
    """After the first updates of a run that has many more."""
    sets = ("tracker.type=none", "source.batch=1", "evaluation.grid=1")
    words = [word for assignment in sets for word in ("--set", assignment)]
    result = call(TEACHER, "--steps", "1", "--method", "dsdn", "--updates", "42", *words, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "time      shown once the first 20 updates are measured\n" in result.stdout
    assert re.search(
        r"^about 0:\d\d for the other 22 updates, measured from the first 20$", result.stdout, re.MULTILINE
    )


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    result = call(tmp_path / "no")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"distillkit distill {tmp_path}/no: 1 error\n  model.path: ")


def test_guidance_that_the_model_cannot_do(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    result = call(tmp_path / "teacher", "--guidance", "3", "--output", tmp_path / "run")
    must = "must be 1: the model has no null condition for guidance to compare with (--guidance)"
    assert (result.exit_code, result.stderr) == (
        2,
        f"distillkit distill {tmp_path}/teacher: 2 errors\n  source.guidance: {must}\n  evaluation.teacher_guidance: "
        f"{must}\n",
    )
    assert not (tmp_path / "run").exists()


def test_a_source_with_a_mistake() -> None:
    """Its levels are not asked for."""
    result = call(TEACHER, "--set", "source.sead=1")
    assert result.exit_code == 2
    assert "source.sead: unknown option of 'cached-trajectories'" in result.stderr


def test_a_folder_that_is_taken(done: tuple[Run, Result]) -> None:
    run, _ = done
    result = call(TEACHER, "--output", run.folder)
    assert result.exit_code == 2
    assert f"{run.folder}: already holds a run; nothing was overwritten" in result.stderr


def test_a_setting_that_is_none() -> None:
    result = call(TEACHER, "--set", "run.update=3", "--set", "modle.path=x")
    keys = [line.partition(":")[0].strip() for line in result.stderr.splitlines()[1:]]
    assert (result.exit_code, keys) == (2, ["run.update", "modle"])
