"""What sweep.py, study.py and any_step.py share: runs that are carried out once, and tables in the pages of docs/."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """One run: a config with a few keys set otherwise, in a folder of its own."""

    config: Path
    settings: tuple[str, ...]
    folder: Path

    def carry_out(self) -> None:
        """Run it, on one thread, unless it is there; one that was killed goes on from its newest checkpoint."""
        if (self.folder / "pipeline").is_dir():
            return
        sets = [word for setting in ("tracker.type=none", *self.settings) for word in ("--set", setting)]
        again = ["--resume"] if (self.folder / "config.toml").is_file() else []
        distillkit([*("run", str(self.config)), *sets, *again, "--output", str(self.folder)])

    def scores(self, phase: str = "", metric: str = "fd-fashion") -> dict[int, float]:
        """Numbers of steps -> the student's score, after a phase ("phases/1") or at the end."""
        rows = json.loads((self.folder / phase / "scores.json").read_text(encoding="utf-8"))
        return {row["steps"]: row["value"] for row in rows if (row["model"], row["metric"]) == ("student", metric)}

    def journal(self) -> list[dict[str, Any]]:
        """The updates."""
        lines = (self.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def distillkit(words: Sequence[str]) -> str:
    """What a command of distillkit's prints; one thread, so that several at the same time do not wait for another."""
    command = [sys.executable, "-m", "distillkit", *words]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ).stdout


def side_by_side(tasks: Sequence[Callable[[], object]], jobs: int) -> None:
    """Carry out tasks, `jobs` at the same time; the first error ends it."""
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()


def slug(title: str) -> str:
    """A folder's name for a row's title."""
    return re.sub(r"[^a-z0-9.-]+", "-", title)


def write_blocks(page: Path, name: str, blocks: Mapping[str, str]) -> None:
    """Put each block between `<!-- name: key -->` and `<!-- end -->` in a page."""
    text = page.read_text(encoding="utf-8")
    for key, block in blocks.items():
        text = re.sub(
            rf"(<!-- {name}: {key} -->\n).*?(<!-- end -->)",
            lambda match, block=block: f"{match[1]}{block}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
    page.write_text(text, encoding="utf-8")


def scores_in(page: Path, name: str, key: str) -> dict[str, dict[int, float]]:
    """The scores in a block that `write_blocks` wrote: row -> number of steps -> mean."""
    [block] = re.findall(rf"<!-- {name}: {key} -->\n(.*?)\n<!-- end -->", page.read_text(encoding="utf-8"), re.DOTALL)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    steps = {i: int(cell.split()[0]) for i, cell in enumerate(head) if re.fullmatch(r"\d+ steps?", cell)}
    return {row[0]: {steps[i]: float(row[i].split()[0]) for i in steps} for row in rows}


def arguments(description: str | None, folder: str) -> argparse.ArgumentParser:
    """The options that both have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--folder", type=Path, default=Path(folder), help="where the runs lie")
    return parser
