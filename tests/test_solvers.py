"""Diffusers' solvers: samples against loops without distillkit; the teacher's scores with several of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from click.testing import CliRunner
from distillkit_diffusers.families.table import SOLVERS
from helpers.digits import MODEL, PLAIN, SCORED, TEACHER, Run, distil, settings
from helpers.networks import LDM, pixel_unet
from helpers.pipelines import load
from PIL import Image
from torch import Tensor, nn

from distillkit.cli.group import cli
from distillkit.errors import ConfigError
from distillkit.evaluation import Evaluator, gains
from distillkit.noise import Predictor
from distillkit.sampling import noise_for, sample_with
from distillkit.terminal import print_scores

# diffusers' solvers have not kept up with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = torch.tensor([0, 3, 2])


def ours(folder: Path, solver: str, steps: int, guidance: float = 1.0, start: int | None = None) -> Tensor:
    """Samples of three noises."""
    model = load(folder, null_class=4)
    path = model.spec.with_grid("trailing", start).path
    predictor = Predictor(model.network, path, model.spec.prediction, model.forward)
    condition = model.condition(LABELS, 3, None if guidance == 1 else torch.full((3,), guidance))
    noise = noise_for(0, range(3), model.spec.sample_shape)
    return sample_with(predictor, model.solver(solver, steps, path), noise, condition)


@torch.no_grad()
def by_hand(network: nn.Module, scheduler: Any, steps: int, guidance: float = 1.0) -> Tensor:
    """The same with a stock scheduler and the network itself."""
    scheduler.set_timesteps(steps)
    z = noise_for(0, range(3), (1, 8, 8)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(z, t)
        with_classes = network(given, t, class_labels=LABELS).sample
        without = network(given, t, class_labels=torch.full((3,), 4)).sample
        z = scheduler.step(without + guidance * (with_classes - without), t, z).prev_sample
    return z


def folder_of(folder: Path, scheduler: Any) -> nn.Module:
    """A class-conditional teacher's folder; gives its network."""
    network = pixel_unet(num_class_embeds=5).eval()
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return network


STOCK: dict[str, Any] = {
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_are_those_of_a_stock_scheduler(tmp_path: Path, solver: str, kind: Any) -> None:
    """In whatever class the folder has its schedule, and whatever spacing that has."""
    network = folder_of(tmp_path, diffusers.DDIMScheduler(**LDM, prediction_type=kind, clip_sample=False))
    name, _, karras = solver.partition("-")
    for steps, guidance in ((1, 1.0), (2, 2.0), (5, 1.0), (17, 1.0)):
        config = diffusers.DDIMScheduler.load_config(tmp_path / "scheduler")
        changed = {"timestep_spacing": "trailing", "use_karras_sigmas": bool(karras)}
        scheduler = STOCK[name].from_config(config, **changed)
        expected = by_hand(network, scheduler, steps, guidance)
        torch.testing.assert_close(ours(tmp_path, solver, steps, guidance), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_edm_has_its_own(tmp_path: Path, schedule: Any) -> None:
    network = folder_of(tmp_path, diffusers.EDMEulerScheduler(sigma_schedule=schedule, sigma_max=20.0, sigma_data=0.7))
    assert load(tmp_path, null_class=4).spec.solvers == ("dpmsolver++",)
    # A single exponential step of diffusers' begins at σ_min.
    for steps in (1, 2, 6) if schedule == "karras" else (2, 6):
        config = diffusers.EDMEulerScheduler.load_config(tmp_path / "scheduler")
        expected = by_hand(network, diffusers.EDMDPMSolverMultistepScheduler.from_config(config), steps, 2.0)
        torch.testing.assert_close(ours(tmp_path, "dpmsolver++", steps, 2.0), expected, rtol=1e-4, atol=1e-4)


def test_begins_where_the_grid_begins(tmp_path: Path) -> None:
    """An ε-network's grids do not begin at the table's end."""
    network = folder_of(tmp_path, diffusers.DDIMScheduler(**LDM, clip_sample=False))
    stock = diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    betas = stock.betas[:832].double().numpy()
    for solver in ("dpmsolver++", "dpmsolver++-karras"):
        karras = solver.endswith("karras")
        scheduler = diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=832, trained_betas=betas, timestep_spacing="trailing", use_karras_sigmas=karras
        )
        found, expected = ours(tmp_path, solver, 4, start=831), by_hand(network, scheduler, 4)
        assert scheduler.timesteps[0] == 831
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_step_is_an_evaluation(tmp_path: Path) -> None:
    folder_of(tmp_path, diffusers.DDIMScheduler(**LDM, clip_sample=False))
    model = load(tmp_path, null_class=4)
    for start in (999, 831, 479):
        path = model.spec.with_grid("trailing", start).path
        for solver in SOLVERS:
            for steps in (1, 2, 3, 61, 64):
                times = model.solver(solver, steps, path).timesteps
                assert len(times) == steps
                assert (times[0], times.min() >= 0) == (start, True)


# --- the teacher's scores --------------------------------------------------------------------------------------------

SHORT = ("run.updates=2", "schedule.start=4", "evaluation.samples=20", "evaluation.steps=[2, 4]")
METRICS = '[[metric]]\ntype = "kid"\nsubsets = 2\nsubset_size = 10\n[[metric]]\ntype = "recall"\n'
LONGER = (*SHORT, "evaluation.teacher_steps=[8]")
ALL = ("ddim", "dpmsolver++-karras", "dpmsolver++")
TABLES = MODEL + PLAIN.replace('teacher_solvers = ["ddim"]\n', "") + SCORED


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that scores the teacher as is the default."""
    folder = tmp_path_factory.mktemp("solvers")
    return distil(folder, "dsdi", *LONGER, tables=TABLES + METRICS)


def test_the_teacher_is_scored_with_each_solver(run: Run) -> None:
    rows = rows_of(run.folder)
    teacher = [row for row in rows if row["model"] == "teacher"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    assert len(metrics) == 3
    assert [(row["steps"], row["solver"], row["metric"]) for row in teacher] == [
        (steps, solver, metric) for steps in (2, 4, 8) for solver in ALL for metric in metrics
    ]
    for row in teacher:
        there = f"sampler {row['solver']}; " if row["solver"] != "ddim" else ""
        assert row["protocol"].replace(there, "") == next(
            other["protocol"] for other in rows if other["model"] == "student" and other["metric"] == row["metric"]
        )
    for steps in (2, 4, 8):
        for metric in metrics:
            values = [row["value"] for row in teacher if (row["steps"], row["metric"]) == (steps, metric)]
            [best] = [row for row in teacher if (row["steps"], row["metric"], row["best"]) == (steps, metric, True)]
            assert best["value"] == (max(values) if metric.startswith("recall") else min(values))
    assert len({row["value"] for row in teacher if row["metric"] == metrics[0]}) > 5


def test_a_score_is_that_of_evaluate(run: Run) -> None:
    """The command takes the score of the undistilled folder with the same solver."""
    options = ["--features", "pixels", "--metric", "fid", "--samples", "20", "--steps", "4", "--json"]
    grid = [word for key in ("spacing=trailing", "start=999") for word in ("--set", f"grid.{key}")]
    data = ["--set", "data.type=digits", "--set", "evaluation.reference=data"]
    asked = ["--solver", "dpmsolver++-karras", "--solver", "ddim"]
    result = CliRunner().invoke(cli, ["evaluate", str(TEACHER), *options, *grid, *data, *asked])
    assert result.exit_code == 0, result.output
    found = {row["solver"]: row["value"] for row in json.loads(result.stdout)}
    for row in rows_of(run.folder):
        if (row["model"], row["steps"]) == ("teacher", 4) and row["metric"].startswith("fd") and row["solver"] in found:
            assert found.pop(row["solver"]) == pytest.approx(row["value"], rel=1e-4)
    assert not found
    unknown = CliRunner().invoke(cli, ["evaluate", str(TEACHER), *options, "--solver", "heun"])
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("--solver: is heun, which the model does not have; expected ddim or dpmsolver++")


def test_cards_and_sheets_have_the_best(run: Run) -> None:
    best = [row for row in rows_of(run.folder) if row["model"] == "teacher" and row["best"]]
    card = (run.folder / "pipeline/README.md").read_text(encoding="utf-8")
    shown = [line for line in card.splitlines() if line.startswith("| teacher")]
    assert shown == [
        f"| teacher, {row['solver']} | {row['steps']} | {row['metric']} | {row['value']:.4g} | 20 |" for row in best
    ]
    with Image.open(run.folder / "samples/steps-004.png") as sheet:
        # Three rows: the teacher in 8 and in 4 steps, the student.
        assert sheet.height == (3 * (8 + 2) + 2) * 8


def test_without_scores_a_sheet_has_every_solver(tmp_path: Path) -> None:
    found = distil(tmp_path, "dsdi", *SHORT, tables=TABLES.replace(SCORED, ""))
    with Image.open(found.folder / "samples/steps-002.png") as sheet:
        assert sheet.height == (5 * (8 + 2) + 2) * 8


def test_known_scores_are_not_taken_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped among the teacher's scores goes on with the solver that is missing."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "pipeline")
    whole = rows_of(folder)
    known = [row | {"value": 1000.0 + i} for i, row in enumerate(whole[: 5 * 3])]
    (folder / "scores.json").write_text(json.dumps(known), encoding="utf-8")
    taken: list[tuple[int, str | None]] = []
    score = Evaluator.score

    def counted(self: Evaluator, predictor: Any, steps: int, *arguments: Any) -> dict[str, float]:
        taken.append((steps, arguments[-2]))
        return score(self, predictor, steps, *arguments)

    monkeypatch.setattr(Evaluator, "score", counted)
    distil(tmp_path, "dsdi", *LONGER, tables=TABLES + METRICS, resume=True)
    assert taken == [(4, "dpmsolver++"), *((8, solver) for solver in ALL), (2, None), (4, None)]
    assert [row | {"best": None} for row in rows_of(folder)] == [row | {"best": None} for row in [*known, *whole[15:]]]


def test_a_solver_that_the_model_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        distil(tmp_path, "dsdi", *SHORT, 'evaluation.teacher_solvers=["ddim", "heun"]', tables=TABLES)
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        f'evaluation.teacher_solvers: has "heun", which is no solver of {TEACHER}; expected some of ddim, '
        "dpmsolver++-karras, dpmsolver++, unipc-karras, unipc"
    ]
    assert not (tmp_path / "run").exists()


ROW = {"metric": "fd", "samples": 9, "protocol": ""}


def row(model: str, steps: int, value: float, metric: str = "fd", **more: Any) -> dict[str, Any]:
    return {"model": model, "steps": steps, "metric": metric, "value": value, "samples": 9, "protocol": "", **more}


SCORES = [
    row("teacher", 2, 9.0, solver="ddim", best=True),
    row("teacher", 2, 12.0, solver="unipc", best=False),
    row("teacher", 8, 5.0, solver="ddim", best=False),
    row("teacher", 8, 2.0, solver="unipc", best=True),
    row("teacher", 16, 1.5, solver="unipc", best=True),
    row("student", 2, 4.5),
    row("student", 8, 2.0),
]


def test_tables_have_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(SCORES)
    _, _, _, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["teacher", "9", "2", "1.5"], ["student", "4.5", "2"]]
    assert " ".join(lines[2]) == "teacher: the best solver at each number of steps: ddim in 2; unipc in 8, 16"


def test_what_was_won(tmp_path: Path) -> None:
    """Also by a metric that rises."""
    metrics = '[[metric]]\ntype = "recall"\n'
    components = settings(tmp_path, "dsdi", "run.updates=1", tables=TABLES + metrics).components()
    fid, recall = (metric.label(components.features) for metric in components.metrics)  # type: ignore[arg-type]
    rising = [row | {"metric": recall} for row in SCORES]
    assert [*gains([row | {"metric": fid} for row in SCORES] + rising, components)] == [
        f"{fid} in 2 steps: the student has 4.5; without training, ddim has 9",
        f"{fid} in 8 steps: nothing is won: without training, unipc has 2; the student has 2",
        f"{recall} in 2 steps: nothing is won: without training, ddim has 9; the student has 4.5",
        f"{recall} in 8 steps: nothing is won: without training, unipc has 2; the student has 2",
    ]
    assert [*gains([row for row in SCORES if row["model"] == "student"], components)] == []
