"""A small trained teacher for scikit-learn's digits, and runs that distil it in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distillkit.config import Config, Settings, read_config
from distillkit.interfaces import Stage
from distillkit.training import assemble
from distillkit.training.assemble import Parts
from distillkit.training.run import run

TEACHER = Path(__file__).parents[1] / "data/digits_teacher"
"""A class-conditional v-network with a null class (10), made by tests/data/make_digits_teacher.py."""

MODEL = f"""
[model]
type = "diffusers"
path = "{TEACHER}"
"""

PLAIN = """
[data]
type = "digits"
[evaluation]
steps = [2]
teacher_solvers = ["ddim"]
grid = 2
[tracker]
type = "none"
"""
"""Tables for a run that scores nothing and records nothing."""

SCORED = """
[features]
type = "pixels"
[[metric]]
type = "fid"
"""
"""Tables to put behind PLAIN's, for a run with scores."""

FEW = '[source]\nbatch = 4\n[evaluation]\nsteps = [2]\nteacher_solvers = ["ddim"]\nsamples = 5\ngrid = 2\nbatch = 5\n'
TWO_PHASES = (
    '[run]\nname = "two"\n'
    + FEW
    + MODEL
    + PLAIN.replace('[evaluation]\nsteps = [2]\nteacher_solvers = ["ddim"]\ngrid = 2\n', "")
    + SCORED
    + """
[[phase]]
preset = "dsdi"
run = { updates = 4 }
schedule = { start = 8, stop = 4 }
[[phase]]
preset = "tsd"
[phase.run]
updates = 3
[phase.schedule]
start = 4
"""
)
"""A config with two phases: 4 updates of `dsdi`, then 3 of `tsd`; few samples."""


@dataclass
class Run:
    """A finished run's folder."""

    folder: Path

    @property
    def journal(self) -> list[dict[str, Any]]:
        """The updates."""
        lines = (self.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def losses(self) -> list[float]:
        """The updates' losses."""
        return [line["loss"] for line in self.journal]

    def score(self, model: str, steps: int) -> float:
        """A score of the teacher or the student."""
        rows = json.loads((self.folder / "scores.json").read_text(encoding="utf-8"))
        [value] = [row["value"] for row in rows if (row["model"], row["steps"]) == (model, steps)]
        assert isinstance(value, float)
        return value

    def weights(self) -> dict[str, Tensor]:
        """The exported network's."""
        from safetensors.torch import load_file

        return load_file(self.folder / "pipeline/unet/diffusion_pytorch_model.safetensors")


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint: "engine/…" (the first rank's), "teacher/…", "target/…", "source/…"."""
    from safetensors.torch import load_file

    engine = load_file(folder / "rank-00000.safetensors")
    return {f"engine/{key}": value for key, value in engine.items()} | load_file(folder / "state.safetensors")


def settings(folder: Path, preset: str, *assignments: str, tables: str = MODEL + PLAIN) -> Settings:
    """A preset's settings over the teacher, with assignments as of --set."""
    file = folder / "mine.toml"
    file.write_text(f'preset = "{preset}"\n{tables}', encoding="utf-8")
    return read_config(file, assignments).phases[0]


def distil(folder: Path, preset: str, *assignments: str, tables: str = MODEL + PLAIN, resume: bool = False) -> Run:
    """Carry out a run in folder/run."""
    folder.mkdir(exist_ok=True)
    run(Config.of(settings(folder, preset, *assignments, tables=tables)), folder / "run", resume=resume)
    return Run(folder / "run")


def two_phases(folder: Path, text: str = TWO_PHASES) -> Path:
    """Write a config with several phases to folder/two.toml."""
    file = folder / "two.toml"
    file.write_text(text, encoding="utf-8")
    return file


def started(folder: Path, preset: str, steps: int, *options: str, stride: int = 2) -> Parts:
    """Parts whose source has begun a stage of `steps` steps."""
    parts = assemble.load(settings(folder, preset, "run.updates=100", *options).components())
    assemble.prepare(parts)
    parts.components.source.start_stage(Stage(steps, 100, stride), parts.student.path)
    return parts
