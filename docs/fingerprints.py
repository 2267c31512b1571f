"""Hashes of the weights that every preset makes: the same before and after a refactor, on one machine.

    python docs/fingerprints.py [NAME ...]

Each preset distils (or trains) the small teacher of the tests on scikit-learn's digits, with few updates, one process
and one thread; the hash is of the exported network's file. Another machine, or another torch, gives other hashes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

MODEL = f'[model]\ntype = "diffusers"\npath = "{ROOT / "tests/data/digits_teacher"}"\n'

TABLES = """
[source]
batch = 4
[data]
type = "digits"
[evaluation]
steps = [2]
samples = 20
grid = 2
[features]
type = "pixels"
[[metric]]
type = "fid"
[tracker]
type = "none"
"""

SHORT = ("schedule.start=8",)
GUIDED = ("model.guidance_input=[1.0, 3.0]", "source.guidance=[1.0, 3.0]")

CASES: dict[str, tuple[str, ...]] = {
    "dsdn": ("schedule.steps=8",),
    "dsdi": SHORT,
    "dsdgl": SHORT,
    "dsdgexp": SHORT,
    "dsd-anchored": SHORT,
    "tsd": SHORT,
    "pd": SHORT,
    "luhman": ("schedule.steps=8",),
    "any-step": ("source.trajectories=16",),
    "luhman-cached": ("schedule.steps=8", "source.trajectories=16"),
    "shortcut": ("schedule.steps=16", "target.stride=4", "source.levels=[1, 2, 4]", "source.level_weights=[1, 1, 2]"),
    "matching": (),
    "consistency": ("schedule.steps=8",),
    "guided": GUIDED,
    "training": (),
    "dsd-training": (),
}
"""Preset -> the assignments of --set that make it small, beside run.updates."""

EXTRA: dict[str, tuple[str, tuple[str, ...]]] = {
    "dsdi, guided, accumulated, averaged": (
        "dsdi",
        (*SHORT, "source.guidance=[1.0, 3.0]", "optimizer.accumulate=2", "ema.decay=0.9"),
    ),
    "dsdi, lora": ("dsdi", (*SHORT, "student.adapter=lora", "student.rank=2")),
    "dsd-anchored, bf16, recomputed": (
        "dsd-anchored",
        (*SHORT, "engine.precision=bf16", "engine.gradient_checkpointing=true"),
    ),
    "pd, clipped": ("pd", (*SHORT, "optimizer.clip=0.1")),
}
"""Name -> preset and assignments, for what no preset does by itself."""


def fingerprint(preset: str, assignments: tuple[str, ...], folder: Path) -> str:
    """The hash of what a short run exports."""
    config = folder / "config.toml"
    config.write_text(f'preset = "{preset}"\n{MODEL}{TABLES}', encoding="utf-8")
    given = [word for text in ("run.updates=14", *assignments) for word in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-m", "distillkit", "run", str(config), "--output", str(folder / "run"), *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    weights = folder / "run/pipeline/unet/diffusion_pytorch_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Print a line for each case."""
    cases = {name: (name, assignments) for name, assignments in CASES.items()} | EXTRA
    for name in sys.argv[1:] or cases:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:40} {fingerprint(*cases[name], Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
