"""`distillkit compare`: the scores of several runs in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from distillkit.cli.options import echo_json, json_option
from distillkit.errors import DistillkitError
from distillkit.reading import read_scores
from distillkit.terminal import print_scores


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@json_option
def command(runs: tuple[Path, ...], as_json: bool) -> None:
    """Show the scores of several runs side by side: a row per model, a column per number of sampling steps.

    Scores that do not compare, because features, samples, seed, grid or the like differ, are refused.
    """
    rows = [row | {"run": str(run)} for run in runs for row in _scores(run)]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    for metric in metrics:
        _check_protocols(metric, [row for row in rows if row["metric"] == metric])
    if as_json:
        echo_json(rows)
        return
    print_scores(rows, labels=("run", "model"))


def _scores(run: Path) -> list[dict[str, Any]]:
    file = run / "scores.json"
    if not file.exists():
        raise DistillkitError(f"{run}: there is no scores.json; give the folder of a finished run")
    rows = read_scores(file)
    if not rows:
        raise DistillkitError(f"{run}: the run took no scores, because its config has no [[metric]]")
    return rows


def _check_protocols(metric: str, rows: Iterable[dict[str, Any]]) -> None:
    """Check that all scores of a metric were taken in the same way.

    Raises:
        DistillkitError: they were not.
    """
    first, *others = rows
    here = _way(first)
    for row in others:
        if (there := _way(row)) != here:
            mine = "; ".join(part for part in here if part not in there) or "nothing more"
            its = "; ".join(part for part in there if part not in here) or "nothing more"
            raise DistillkitError(
                f"{metric}: {first['run']} and {row['run']} were scored in different ways and do not compare:\n"
                f"  {first['run']}: {mine}\n  {row['run']}: {its}\n"
                "score one of them again with `distillkit evaluate` as the other was, or compare other runs"
            )


def _way(row: Mapping[str, Any]) -> list[str]:
    """The parts of the protocol, without sampler and guidance, which belong to the model as its steps do."""
    return [part for part in row["protocol"].split("; ") if not part.startswith(("sampler ", "guidance "))]
