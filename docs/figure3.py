"""Draws scores over the updates of several runs, as the paper's Figure 3: from what `evaluation.every` found.

python docs/figure3.py RUN RUN… [--score fd-pixels/steps-8] [--output figure3.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def curves(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Score's name -> the updates at which it was taken, and what it was."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for line in (run / "curves.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row["scores"].items():
            updates, values = found.setdefault(name, ([], []))
            updates.append(row["update"])
            values.append(value)
    return found


def main() -> None:
    """Read the runs, and draw one panel for each score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders with a curves.jsonl")
    parser.add_argument("--score", help="one score by name; left out: all of the first run's")
    parser.add_argument("--output", type=Path, default=Path("figure3.png"), help="PNG, SVG or PDF, by its ending")
    arguments = parser.parse_args()
    if missing := [run for run in arguments.runs if not (run / "curves.jsonl").is_file()]:
        parser.error(f"{missing[0]}: no curves.jsonl; set evaluation.every and a [[metric]] in the run's config")
    runs = {run.name: curves(run) for run in arguments.runs}
    names = [arguments.score] if arguments.score else [*next(iter(runs.values()))]
    for run, found in runs.items():
        for name in names:
            if name not in found:
                parser.error(f"{run}: no score {name}; it has: {', '.join(found)}")
    figure = Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for run, found in runs.items():
            axes.plot(*found[name], label=run)
        axes.set(title=name, xlabel="updates", yscale="log")
        axes.legend()
    figure.savefig(arguments.output)


if __name__ == "__main__":
    main()
