"""Runs the experiments of docs/methods.md and writes their tables into it: `python docs/sweep.py [--jobs 2]`.

Every row is configs/quickstart.toml with a few keys set otherwise; rows whose run folder exists are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DOCS = Path(__file__).parent
CONFIG = DOCS.parent / "configs" / "quickstart.toml"
# The teacher is the same in every row: it is scored once, by the quickstart itself.
ALWAYS = ["tracker.type=none", "evaluation.teacher_steps=[]"]


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


def run(folder: Path, settings: list[str]) -> None:
    """One row, unless it is there."""
    if (folder / "pipeline").is_dir():
        return
    sets = [word for setting in [*ALWAYS, *settings] for word in ("--set", setting)]
    command = [sys.executable, "-m", "distillkit", "run", str(CONFIG), *sets, "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def folder_of(top: Path, name: str, title: str) -> Path:
    """Where a row's run lies."""
    return top / name / re.sub(r"[^a-z0-9.-]+", "-", title)


def table(name: str, top: Path) -> str:
    """A Markdown table of the scores."""
    lines = []
    for title in TABLES[name]:
        rows = json.loads((folder_of(top, name, title) / "scores.json").read_text(encoding="utf-8"))
        scores = {row["steps"]: f"{row['value']:.1f}" for row in rows if row["model"] == "student"}
        if not lines:
            head = " | ".join(f"{steps} steps" for steps in scores)
            lines = [f"| {name} | {head} |", "|---|" + "---|" * len(scores)]
        lines.append(f"| {title} | {' | '.join(scores.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/sweep"))
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = [
            pool.submit(run, folder_of(arguments.folder, name, title), settings)
            for name, rows in TABLES.items()
            for title, settings in rows.items()
        ]
        for future in waiting:
            future.result()
    page = DOCS / "methods.md"
    text = page.read_text(encoding="utf-8")
    for name in TABLES:
        text = re.sub(
            rf"(<!-- sweep: {name} -->\n).*?(<!-- end -->)",
            lambda match, name=name: f"{match[1]}{table(name, arguments.folder)}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
