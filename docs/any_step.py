"""Runs what docs/study.md says of any-step, and writes its tables and plot: `python docs/any_step.py [--jobs 2]`.

Every run is a config with a few keys set otherwise; those whose folder exists are not run again. `--parts` carries out
some of it. "epsilon" needs the teacher of `python docs/epsilon_teacher.py runs/epsilon-teacher`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from experiments import Experiment, arguments, side_by_side, slug, write_blocks
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
CONFIGS = DOCS.parent / "configs"
SEEDS = (0, 1, 2)
STEPS = (1, 2, 3, 4, 6, 8)


def _size(updates: int) -> list[str]:
    """A run of this length, with trajectories in proportion."""
    return [f"run.updates={updates}", f"source.trajectories={updates}"]


def _rate(rate: float) -> list[str]:
    """A run of the quick start's length, whose learning rate falls to a tenth."""
    return [*_size(800), *EARLY, f"optimizer.learning_rate={rate}", f"optimizer.final_learning_rate={rate / 10}"]


EARLY = ["grid.start=auto"]
"""The student begins where its teacher does."""
DEEP = [
    *_size(800),
    "schedule.steps=16",
    "source.levels=[1, 2, 3, 4, 6, 8, 12, 16]",
    "source.level_weights=[1, 1.4, 1.7, 2, 2.4, 2.8, 3.4, 4]",
    "source.spacing=karras-16",
    "grid.spacing=karras-16",
]
"""Up to 16 steps: what docs/methods.md says."""
PART = [*_size(600), *EARLY]
UNGUIDED = ["student={}", "source.guidance=1", "evaluation.teacher_guidance=1"]
TOLD = ["model.step_input=true"]
EPSILON = ["model.type=diffusers", "model.path=runs/epsilon-teacher"]
"""The teacher of docs/epsilon_teacher.py."""
SHORTCUT = ["preset=shortcut", "run.updates=600"]
ANY_LENGTH = [
    "target={type='lagrangian', stride=2}",
    "schedule.steps=64",
    "source={type='trajectory', lengths='any', batch=16}",
]
FROM_NOISE = ["target={type='lagrangian', stride=2}", "schedule.steps=64", "source={type='pure-noise', batch=16}"]


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        config: the config of its runs, in configs/.
        rows: title -> what is set otherwise.
        seeds: of the runs.
        steps: numbers of steps that are scored.
        phases: of a config with several phases, the titles of the rows, one for each: the scores after it.
    """

    config: str
    rows: dict[str, list[str]]
    seeds: Sequence[int] = (200,)
    steps: Sequence[int] = STEPS
    phases: Sequence[str] = ()

    def runs(self, name: str, top: Path) -> dict[str, list[Experiment]]:
        """A run for each row and seed."""
        scored = ["evaluation.teacher=false", f"evaluation.steps={[*self.steps]}"]
        return {
            title: [
                Experiment(
                    CONFIGS / f"{self.config}.toml",
                    (*scored, f"run.seed={seed}", *self._source(seed, top), *settings),
                    top / name / f"{slug(title)}-{seed}",
                )
                for seed in self.seeds
            ]
            for title, settings in self.rows.items()
        }

    def _source(self, seed: int, top: Path) -> list[str]:
        """Trajectories of the seed's own."""
        if self.config not in ("quickstart", "fashion_dmd"):
            return []
        return [f"source.seed={seed}", f"source.folder={top.absolute() / 'trajectories'}", "evaluation.export_steps=4"]


TABLES = {
    "length": Table("quickstart", {str(updates): _size(updates) for updates in (200, 400, 800, 1600)}, SEEDS),
    "rate": Table(
        "quickstart",
        {f"{rate:g}": _rate(rate) for rate in (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)},
        (0,),
        steps=(1, 2, 4, 8),
    ),
    "parts": Table(
        "quickstart",
        {
            "as it is": PART,
            "not told the step size": [*PART, "model.step_input=false"],
            "levels 1, 2, 4, 8": [*PART, "source.levels=[1, 2, 4, 8]", "source.level_weights=[1, 1.4, 2, 2.8]"],
            "trajectories of DDIM": [*PART, "source.order=1"],
            "trajectories of DDIM in 32 steps": [
                *PART,
                "source.order=1",
                "schedule.steps=32",
                "grid.spacing=trailing+angle",
                "source.spacing=trailing+angle",
            ],
            "grid trailing": [*PART, "grid.spacing=trailing"],
            "grid trailing + angle": [*PART, "grid.spacing=trailing+angle"],
            "a quarter of the trajectories": [*PART, "source.trajectories=150"],
            "pseudo-Huber loss": [*PART, "loss[0].type=x-huber", "loss[0].weighting=none"],
            "guidance 1.25": [*PART, "source.guidance=1.25"],
        },
    ),
    "deep": Table(
        "quickstart",
        {"levels to 16": DEEP},
        steps=(1, 2, 4, 8, 12, 16),
    ),
    "late": Table(
        "quickstart",
        {
            title: [*_size(600), *UNGUIDED, f"grid.start={start}"]
            # Of the bundled teacher.
            for title, start in {"at the noise": 999, "at σ/α = 5": 620, "at σ/α = 2.5": 475}.items()
        }
        | {
            f"guided, {title}": [*_size(600), f"grid.start={start}"]
            for title, start in {"at the noise": 999, "at σ/α = 5": 620, "at σ/α = 10": 735}.items()
        },
        steps=(1, 2, 4, 8),
    ),
    "sharpened": Table("fashion_dmd", {"chain": []}, SEEDS, steps=(1, 2, 4, 8), phases=("any-step", "and then `dmd`")),
    "warm": Table("study/warm", {"dsd-anchored, then any-step": EARLY}, steps=(1, 2, 4, 8)),
    "epsilon": Table(
        "quickstart",
        {start: [*_size(600), *UNGUIDED, *EPSILON, f"grid.start={start}"] for start in ("auto", "late")},
    ),
    "bootstrapped": Table(
        "fashion_anchored",
        {
            "shortcut": SHORTCUT,
            "teacher_share 0.4": [*SHORTCUT, "target.teacher_share=0.4"],
            "adaptive weight": [*SHORTCUT, "loss[0].adaptive=1"],
            "lagrangian": [*SHORTCUT, "target.type=lagrangian"],
            "lagrangian, jumps of any length": [*SHORTCUT, *ANY_LENGTH],
            "lagrangian, from noise alone": [*SHORTCUT, *FROM_NOISE],
        },
        steps=(1, 2, 4, 8),
    ),
    "told": Table("study/dsdi", {"dsdi, told the step size": TOLD}, steps=(1, 2, 4, 8)),
    "told-anchored": Table("study/dsd-anchored", {"dsd-anchored, told the step size": TOLD}, steps=(1, 2, 4, 8)),
}


def scores(runs: Sequence[Experiment], steps: Sequence[int], phase: str = "") -> list[str]:
    """Mean ± standard deviation at each number of steps, after a phase or at the end; of one run, its scores."""
    found = [run.scores(phase) for run in runs]
    spread = [f" ± {stdev(s[n] for s in found):.1f}" if len(found) > 1 else "" for n in steps]
    return [f"{fmean(s[n] for s in found):.1f}{part}" for n, part in zip(steps, spread, strict=True)]


def markdown(table: Table, runs: dict[str, list[Experiment]]) -> str:
    """A Markdown table of the scores."""
    lines = [["", *(f"{n} step{'s' * (n > 1)}" for n in table.steps)], ["---"] * (1 + len(table.steps))]
    for title, row in runs.items():
        phases = {name: f"phases/{i}" for i, name in enumerate(table.phases, 1)} or {title: ""}
        lines += [[name, *scores(row, table.steps, phase)] for name, phase in phases.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(runs: dict[str, list[Experiment]], file: Path) -> None:
    """Scores over the number of updates, a line for each number of steps."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for steps in STEPS:
        axes.plot([*runs], [fmean(run.scores()[steps] for run in row) for row in runs.values()], "o-", label=f"{steps}")
    axes.set(xlabel="updates", ylabel="fd-fashion (500 samples)", yscale="log")
    axes.set_yticks([12, 15, 20, 30, 50], ["12", "15", "20", "30", "50"])
    axes.minorticks_off()
    axes.legend(title="steps")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run what is missing, then write what was found."""
    parser = arguments(__doc__, "runs/any-step-study")
    parser.add_argument("--parts", nargs="+", choices=TABLES, default=[*TABLES], help="what to carry out and write")
    given = parser.parse_args()
    for name in given.parts:
        table = TABLES[name]
        runs = table.runs(name, given.folder)
        side_by_side([run.carry_out for row in zip(*runs.values(), strict=True) for run in row], given.jobs)
        write_blocks(DOCS / "study.md", "any-step", {name: markdown(table, runs)})
        if name == "length":
            plot(runs, DOCS / "images" / "any-step.png")


if __name__ == "__main__":
    main()
