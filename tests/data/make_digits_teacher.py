"""Trains the teacher that the tests distil, and writes it with float16 weights. Run it with plain python.

Takes a few minutes. Other hardware and torch versions give other weights, so tests must not depend on their bits.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from distillkit.config import read_config
from distillkit.training.run import run

HERE = Path(__file__).parent
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

with tempfile.TemporaryDirectory() as folder:
    run(read_config(HERE / "digits_teacher.toml"), Path(folder, "run"))
    target = HERE / "digits_teacher"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(Path(folder, "run/pipeline"), target)
    half = {name: weight.half() for name, weight in load_file(target / WEIGHTS).items()}
    save_file(half, target / WEIGHTS, metadata={"format": "pt"})
