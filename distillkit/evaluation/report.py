"""The table that a run ends with: teacher and student, a column per number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table per metric from rows of scores.json; a score that was not taken is left blank."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    return [_table(metric, [row for row in rows if row["metric"] == metric]) for metric in metrics]


def _table(metric: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    steps = sorted({row["steps"] for row in rows})
    samples = sorted({row["samples"] for row in rows})
    table = Table()
    table.add_column(f"{metric} ({', '.join(map(str, samples))} samples)")
    for number in steps:
        table.add_column(f"{number} step{'s' if number > 1 else ''}", justify="right")
    for model in dict.fromkeys(row["model"] for row in rows):
        values = {row["steps"]: row["value"] for row in rows if row["model"] == model}
        table.add_row(model, *(f"{values[number]:.4g}" if number in values else "" for number in steps))
    return table
