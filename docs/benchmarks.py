"""Times and measures updates for docs/benchmarks.md: `python docs/benchmarks.py digits fashion --device cpu`.

Teachers are the small ones of this repository, or ones of full size with random weights (ldm, cin256, sd15), which want
a GPU. Methods take turns, round after round, each in a process of its own, and the medians are told.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from experiments import distillkit
from random_teachers import TEACHERS

DOCS = Path(__file__).parent
SMALL = {
    "digits": DOCS.parent / "tests" / "data" / "digits_teacher",
    "fashion": DOCS.parent / "plugins" / "distillkit_fashion" / "teacher",
}
BATCH = {"digits": 64, "fashion": 16, "ldm": 8, "cin256": 8, "sd15": 4}
"""Samples per update."""

METHODS = {
    "DSDI": ("dsdi", ()),
    "TSD": ("tsd", ()),
    "DSD, anchored": ("dsd-anchored", ()),
    "DSDI, gradient checkpointing": ("dsdi", ("engine.gradient_checkpointing=true",)),
}
"""A row's title -> preset, and what is set otherwise."""


def measured(config: Path, settings: Sequence[str]) -> dict[str, Any]:
    """What `distillkit plan --measure` finds: seconds per update, bytes at the most, and the device."""
    words = [word for setting in settings for word in ("--set", setting)]
    found = json.loads(distillkit(["plan", str(config), *words, "--measure", "--json"]))
    seconds = sum(stage["seconds"] for stage in found["stages"]) / found["updates"]
    return {"seconds": seconds, "bytes": found["measured"]["memory_bytes"], "device": found["measured"]["device"]}


def rows(name: str, options: argparse.Namespace) -> list[str]:
    """The lines of a teacher's table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = SMALL.get(name, Path(temporary, "teacher"))
        if name in TEACHERS:
            TEACHERS[name](folder)
        settings = [f"engine.device={options.device}", f"engine.precision={options.precision}"]
        settings += [f"source.batch={options.batch or BATCH[name]}"]
        configs = {}
        for title, (preset, _) in METHODS.items():
            config = configs[title] = Path(temporary, f"{preset}.toml")
            prompts = 'prompts = ["a", "b"]\n' if name == "sd15" else ""
            config.write_text(
                f'preset = "{preset}"\n[run]\nupdates = 600\n[model]\ntype = "diffusers"\npath = "{folder}"\n{prompts}'
            )
        rounds = [
            {title: measured(configs[title], (*settings, *more)) for title, (_, more) in METHODS.items()}
            for _ in range(options.rounds)
        ]
    lines = []
    for title in METHODS:
        seconds = median(found[title]["seconds"] for found in rounds)
        ratio = median(found[title]["seconds"] / found["DSDI"]["seconds"] for found in rounds)
        memory = median(found[title]["bytes"] for found in rounds)
        lines.append(f"| {name} | {title} | {1000 * seconds:.0f} ms | {ratio:.2f} | {memory / 1e9:.2f} GB |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teachers", nargs="+", choices=[*SMALL, *TEACHERS])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, help="samples per update [default: by the teacher]")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("| teacher | method | time per update | of DSDI's | memory at the most |\n|---|---|---|---|---|")
    for teacher in given.teachers:
        print("\n".join(rows(teacher, given)), flush=True)
