"""Runs the experiments of docs/methods.md and writes their tables into it: `python docs/sweep.py [--jobs 2]`.

Every row is configs/fashion_anchored.toml with a few keys set otherwise; rows whose run folder exists are not run
again.
"""

from __future__ import annotations

from pathlib import Path

from experiments import Experiment, arguments, side_by_side, slug, write_blocks

DOCS = Path(__file__).parent
CONFIG = DOCS.parent / "configs" / "fashion_anchored.toml"


def _lr(peak: str) -> list[str]:
    """The learning rate, falling to a tenth."""
    return [f"optimizer.learning_rate={peak}", f"optimizer.final_learning_rate={float(peak) / 10:g}"]


TEACHERS = {
    "its slow average": [],
    "itself": ["teacher.type=self"],
    "frozen, renewed": ["teacher.type=frozen"],
    "frozen, never renewed": ["teacher.type=frozen", "teacher.renew=never"],
}

TABLES: dict[str, dict[str, list[str]]] = {
    "rates": {
        f"{teacher}, {rate}": [*settings, *_lr(rate)]
        for teacher, settings in TEACHERS.items()
        for rate in ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
    },
    "decay": {decay: [f"teacher.decay={decay}"] for decay in ("0.9", "0.99", "0.995", "0.998", "0.999", "1")},
    "fall": {
        "16, 8, 4; 8 times": [],
        "16, 8, 4; once": ["schedule.cycles=1"],
        "16, 8, 4; 4 times": ["schedule.cycles=4"],
        "16, 8, 4, 2; 8 times": ["schedule.stop=2"],
        "32, 16, 8, 4; 5 times": ["schedule.start=32", "schedule.cycles=5"],
        "8, 4; 8 times": ["schedule.start=8"],
        "4": ["schedule.type=constant", "schedule.steps=4"],
    },
    "length": {str(updates): [f"run.updates={updates}"] for updates in (60, 120, 240, 360, 480)},
    "parts": {
        "as it is": [],
        "form last": ["target.form=last"],
        "weighting none": ["loss[0].weighting=none"],
        "v-mse": ["loss[0].type=v-mse", "loss[0].weighting=none"],
        "staggered": ["source.staggered=true"],
        "staggered, once": ["source.staggered=true", "schedule.cycles=1"],
        "batch 1, 16 times the updates": ["source.batch=1", "run.updates=3840", *_lr("1e-5")],
        "batch 64": ["source.batch=64", "run.updates=60"],
        "student's average 0": ["ema.decay=0"],
        "student's average 0.995": ["ema.decay=0.995"],
    },
}
"""Table -> the rows' titles -> what is set otherwise."""


def rows(name: str, top: Path) -> dict[str, Experiment]:
    """A table's rows."""
    return {
        title: Experiment(CONFIG, ("evaluation.teacher=false", *settings), top / name / slug(title))
        for title, settings in TABLES[name].items()
    }


def table(name: str, top: Path) -> str:
    """A Markdown table of the scores."""
    lines = []
    for title, experiment in rows(name, top).items():
        scores = experiment.scores()
        if not lines:
            head = " | ".join(f"{steps} steps" for steps in scores)
            lines = [f"| {name} | {head} |", "|---|" + "---|" * len(scores)]
        lines.append(f"| {title} | {' | '.join(f'{score:.1f}' for score in scores.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the tables."""
    given = arguments(__doc__, "runs/sweep").parse_args()
    side_by_side([row.carry_out for name in TABLES for row in rows(name, given.folder).values()], given.jobs)
    write_blocks(DOCS / "methods.md", "sweep", {name: table(name, given.folder) for name in TABLES})


if __name__ == "__main__":
    main()
