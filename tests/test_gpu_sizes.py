"""Networks of full size on a GPU, in bfloat16: updates, and the memory that they are estimated to take."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distillkit_diffusers.model import DiffusersModel

from distillkit.config import read_config
from distillkit.config.fit import estimate
from distillkit.sampling import generator
from distillkit.training import assemble

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("name", "more"), [("cin256", ""), ("sd15", 'prompts = ["a", "b"]')])
def test_memory_of_the_allocator(tmp_path: Path, name: str, more: str) -> None:
    """Between a backward pass and the update, when everything is there but activations."""
    folder = tmp_path / "teacher"
    subprocess.run([sys.executable, str(DOCS / "random_teachers.py"), name, str(folder)], check=True)
    config = tmp_path / "config.toml"
    config.write_text(
        f'preset = "dsdi"\n[run]\nupdates = 60\n[model]\ntype = "diffusers"\npath = "{folder}"\n{more}\n'
        '[source]\nbatch = 2\n[engine]\ntype = "torch"\ndevice = "cuda"\nprecision = "bf16"\n[tracker]\ntype = "none"\n'
    )
    settings = read_config(config).phases[0].components()
    inventory = DiffusersModel(DiffusersModel.Options(path=folder)).inventory()
    assert inventory is not None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    parts = assemble.load(settings)
    assemble.prepare(parts)
    stage = parts.plan[0]
    settings.source.start_stage(stage, parts.student.path)
    losses = []
    for update in range(3):
        jumps = settings.source.draw(generator(0, update)).to(settings.engine.device)
        loss, aim, *_ = settings.engine.forward(jumps)
        assert aim is not None
        settings.source.advance(aim.z_next)
        losses.append(loss.detach())
        if update < 2:
            settings.engine.update(loss, 1e-6)
    loss.backward()
    del loss, aim, jumps
    held = torch.cuda.memory_allocated() - before
    assert torch.stack(losses).isfinite().all()
    # Text encoders and the autoencoder are elsewhere while the network is trained.
    assert held == pytest.approx(estimate(settings, inventory).trained, rel=0.05)
