"""The engine deepspeed in one process, without a launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.digits import TEACHER


def test_what_is_not_finite_was_never_made() -> None:
    """In every stage and precision: weights, average, moments and counts are as before, and the update says so."""
    command, folder = [sys.executable, "-m", "helpers.deepspeed_alone"], Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {f"{stage} {kind}": [[1, 0, 0, 1], []] for stage in range(4) for kind in ("fp32", "bf16")}


def distill(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["distill", str(TEACHER), "--steps", "2", "--updates", "4", "--output", "run", "--set", "tracker.type=none"]
    words += ["--set", "engine.type=deepspeed", "--set", "engine.zero_stage=2", "--set", "engine.device=cpu"]
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "distillkit", *words, *more]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_run_of_the_command_line(tmp_path: Path) -> None:
    """Nothing of DeepSpeed's own on the terminal."""
    done = distill(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "DeepSpeed" not in done.stdout
    assert (tmp_path / "run/pipeline/unet/diffusion_pytorch_model.safetensors").is_file()


def test_a_json_that_deepspeed_does_not_take(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"stage": 2, "no_such_key": 1}}', encoding="utf-8")
    done = distill(tmp_path, "--set", "engine.config=mine.json")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("engine.config: DeepSpeed does not take mine.json: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
