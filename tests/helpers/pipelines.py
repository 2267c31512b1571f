"""What the tests of every family of pipelines need: stock samples, samples without distillkit, short runs."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from distillkit_diffusers.model import DiffusersModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distillkit.config import Components, Config
from distillkit.noise import Predictor
from distillkit.sampling import sample, sample_with
from distillkit.training import assemble
from distillkit.training.run import run
from helpers.digits import PLAIN, Run, read_checkpoint, settings

ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("distillkit"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import json, os, traceback
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LCMScheduler, UNet2DModel
for line in sys.stdin:
    folder, script = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.dup2(os.open(os.environ["HF_HOME"] + "/script.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        status = 1
        try:
            exec(script, {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Runs each script that it is sent in a process of its own: a fork, as it takes seconds to import torch and diffusers.

In these processes there is no distillkit.
"""

STOCK = '''
def stock(pipe, noise, arguments):
    """Images [B, C, H, W] in [0, 1] of a pipeline that begins with the noise [B, C, H, W]."""
    import inspect, sys, torch
    pipe.set_progress_bar_config(disable=True)
    given = set(inspect.signature(pipe.__call__).parameters)
    arguments = dict(arguments)
    if hasattr(pipe, "_pack_latents"):
        noise = pipe._pack_latents(noise, *noise.shape)
    if "latents" in given:
        arguments["latents"] = noise
        images = pipe(output_type="pt", **arguments).images
    else:  # hand it the noise where it would draw it
        modules = [sys.modules[one.__module__] for one in type(pipe).__mro__]
        module = next(module for module in modules if hasattr(module, "randn_tensor"))
        drawn, module.randn_tensor = module.randn_tensor, lambda *_, **__: noise
        try:
            images = pipe(output_type="np", **arguments).images
        finally:
            module.randn_tensor = drawn
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    return images.contiguous()
'''
"""The same, here and where there is no distillkit."""

SAMPLE = """
import json, pathlib
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
logging.disable_progress_bar()
noises, images = load_file("noise.safetensors"), {}
for name, case in json.loads(pathlib.Path("cases.json").read_text()).items():
    pipe = DiffusionPipeline.from_pretrained(case["folder"], **case["loading"])
    images[name] = stock(pipe, noises[name], case["arguments"])
save_file(images, "images.safetensors")
"""


@cache
def server() -> tuple[subprocess.Popen[str], Path]:
    """The process whose forks run scripts, and its folder: Hugging Face's cache, and what is written to stderr."""
    home = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with (home / "imports.txt").open("w") as errors:
        command = [sys.executable, "-I", "-c", ALONE]
        pipe = subprocess.PIPE
        started = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True)
    atexit.register(started.kill)
    return started, home


def alone(script: str, folder: Path) -> str:
    """Run a script in a process without distillkit; what it wrote, and what its imports did."""
    process, home = server()
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps([str(folder), script]), file=process.stdin, flush=True)
    status = process.stdout.readline()
    written = "".join((home / name).read_text(encoding="utf-8") for name in ("imports.txt", "script.txt"))
    assert status == "0\n", written
    return written


def load(folder: Path, **options: Any) -> DiffusersModel:
    """The model of a folder, with the grids that its pipeline has, in evaluation mode."""
    model = DiffusersModel(DiffusersModel.Options(path=folder, **options))
    assert [str(mistake) for mistake in model.check()] == []
    model.load()
    model.network.eval()
    return model


def own(
    model: DiffusersModel,
    noise: Tensor,
    steps: int,
    labels: list[int] | None = None,
    guidance: float = 1.0,
    solver: str | None = None,
) -> Tensor:
    """distillkit's images [B, C, H, W] in [0, 1] from noise N(0, I) [B, c, h, w], by DDIM or the solver."""
    spec = model.spec
    predictor = Predictor(model.network, spec.path, spec.prediction, model.forward, step_input=model.step_input)
    scales = None if guidance == 1 else torch.full((len(noise),), guidance)
    condition = model.condition(None if labels is None else torch.tensor(labels), len(noise), scales)
    if solver is None:
        samples = sample(predictor, noise, condition, steps)
    else:
        samples = sample_with(predictor, model.solver(solver, steps, spec.path), noise, condition)
    return (model.decode(samples) / 2 + 0.5).clamp(0, 1)


def stock(pipe: Any, noise: Tensor, **arguments: Any) -> Tensor:
    """A stock pipeline's images [B, C, H, W] in [0, 1] from noise [B, c, h, w]; `arguments` are its call's."""
    scope: dict[str, Any] = {}
    exec(STOCK, scope)
    images: Tensor = scope["stock"](pipe, noise, arguments)
    return images


def stock_alone(folder: Path, noise: Tensor, scratch: Path, trusted: bool = False, **arguments: Any) -> Tensor:
    """The same by a process in which there is no distillkit, from a folder; it must not complain.

    `trusted`: whether the folder brings its pipeline's class.
    """
    loading = {"trust_remote_code": True} if trusted else {}
    case = {"folder": str(folder), "loading": loading, "arguments": arguments}
    return stock_alone_all({"case": case}, {"case": noise}, scratch)["case"]


def stock_alone_all(
    cases: Mapping[str, Mapping[str, Any]], noises: Mapping[str, Tensor], scratch: Path
) -> dict[str, Tensor]:
    """The same for several pipelines by one process: name -> images.

    Args:
        cases: by name the folder, what it is loaded with ("loading"), and what the pipeline is called with
            ("arguments").
        noises: by name.
        scratch: a folder to make.
    """
    scratch.mkdir()
    (scratch / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    save_file({name: noise.contiguous() for name, noise in noises.items()}, scratch / "noise.safetensors")
    assert alone(STOCK + SAMPLE, scratch) == ""
    return load_file(scratch / "images.safetensors")


def distil(folder: Path, teacher: Path, preset: str, *assignments: str, model: str = "") -> tuple[Run, Components]:
    """A short run from a teacher's folder in folder/run, without data, and the components that it made.

    `model` has more lines for its table.
    """
    few = ("run.updates=3", "schedule.start=4", "source.batch=2", "evaluation.steps=[2]")
    tables = f'[model]\ntype = "diffusers"\npath = "{teacher}"\n{model}\n{PLAIN}'
    folder.mkdir(exist_ok=True)
    loaded: list[Components] = []

    def keep(components: Components) -> assemble.Parts:
        loaded.append(components)
        return assemble.load(components)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillkit.training.phase.load", keep)
        run(Config.of(settings(folder, preset, *few, *assignments, tables=tables)), folder / "run")
    [made] = loaded
    return Run(folder / "run"), made


def assert_trained_alone(found: Run, made: Components, frozen: Iterable[nn.Module]) -> None:
    """Only the distilled network's weights have a gradient, optimiser state and an average; `frozen` has none."""
    names = {name for name, _ in made.model.network.named_parameters()}
    [checkpoint] = (found.folder / "checkpoints").iterdir()
    kept = read_checkpoint(checkpoint)
    prefixes = (
        "engine/network.",
        "engine/average.",
        *(f"engine/optimizer.{key}." for key in ("exp_avg", "exp_avg_sq")),
    )
    for prefix in prefixes:
        assert {key.removeprefix(prefix) for key in kept if key.startswith(prefix)} == names
    trained = {id(weight) for weight in made.model.network.parameters()}
    for module in frozen:
        assert not module.training
        for weight in module.parameters():
            assert (weight.requires_grad, weight.grad, id(weight) in trained) == (False, None, False)


def assert_same_weights(teacher: Path, exported: Path) -> None:
    """A part's weights, as bytes, are what they were."""
    files = sorted(file.name for file in teacher.glob("*.safetensors"))
    assert files
    assert files == sorted(file.name for file in exported.glob("*.safetensors"))
    for file in files:
        assert (teacher / file).read_bytes() == (exported / file).read_bytes()
