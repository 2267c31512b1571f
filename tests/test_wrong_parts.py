"""Parts that break the rules of their interfaces: each ends in a sentence that names package, kind, part and method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.digits import MODEL, PLAIN, Run, settings

from distillkit.component import Component
from distillkit.config import Config
from distillkit.config.tables import Choice
from distillkit.interfaces import NoTracker
from distillkit.interfaces.tracker import Status
from distillkit.training.run import run

HERE = __name__
"""The package of the parts below, which no distribution has."""


def carry_out(
    folder: Path, kind: str, part: type[Component], *assignments: str, preset: str = "dsdi", **options: Any
) -> Run:
    """Two updates of a preset with another part in the place of its own."""
    words = ("run.updates=2", "source.batch=4", "schedule.start=4", "evaluation.teacher=false", *assignments)
    usual = settings(folder, preset, *words, tables=MODEL + PLAIN)
    [own] = usual.choices[kind]
    choice = Choice(part, part.Options(**(dict(own.options) | options)))
    run(Config.of(replace(usual, choices={**usual.choices, kind: [choice]})), folder / "run")
    return Run(folder / "run")


class Raising(NoTracker):
    name = "raising"

    def sync(self) -> None:
        raise OSError("no route to host")

    def finish(self, status: Status) -> None:
        raise SystemExit(f"{status}, and no way to say so")


def test_tracker_that_raises_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = carry_out(tmp_path, "tracker", Raising, "run.log_every=1")
    assert len(done.journal) == 2
    assert (done.folder / "pipeline").is_dir()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("distillkit")] == [
        f"{HERE}, tracker 'raising': sync() raised OSError: no route to host; the run goes on without what the tracker "
        "has not recorded"
    ]
