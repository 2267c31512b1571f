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

TABLES: dict[str, dict[str, list[str]]] = {}


def lr(peak: float) -> list[str]:
    """The learning rate, falling to a tenth."""
    return [f"optimizer.learning_rate={peak:g}", f"optimizer.final_learning_rate={peak / 10:g}"]


SELF = ["teacher.type=self"]
EMA = ["teacher.type=ema", "teacher.decay=0.999"]
RENEWED = ["teacher.type=frozen", "teacher.renew=stage"]
ORIGINAL = ["teacher.type=frozen", "teacher.renew=never"]


def run(folder: Path, settings: list[str], threads: int) -> None:
    """One row, unless it is there."""
    if (folder / "pipeline").is_dir():
        return
    sets = [word for setting in [*ALWAYS, *settings] for word in ("--set", setting)]
    command = [sys.executable, "-m", "distillkit", "run", str(CONFIG), *sets, "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": str(threads)})


def table(name: str, folder: Path) -> str:
    """A Markdown table of the scores, with what was set."""
    lines = []
    for title, settings in TABLES[name].items():
        rows = json.loads((folder / name / title / "scores.json").read_text(encoding="utf-8"))
        scores = {row["steps"]: f"{row['value']:.1f}" for row in rows if row["model"] == "student"}
        if not lines:
            head = " | ".join(f"{steps} steps" for steps in scores)
            lines = [f"| `--set` | {head} |", "|---|" + "---|" * len(scores)]
        what = " ".join(f"`{setting}`" for setting in settings) or "(as it is)"
        lines.append(f"| {what} | {' | '.join(scores.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--folder", type=Path, default=Path("runs/sweep"))
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = [
            pool.submit(run, arguments.folder / name / title, settings, threads)
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
