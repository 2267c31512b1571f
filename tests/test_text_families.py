"""Text-conditional pipelines: told prompts, sampled, distilled and exported as diffusers has them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers.digits import Run
from helpers.pipelines import assert_trained_alone, distil, load, own, stock, stock_alone_all
from helpers.text_pipelines import PROMPTS, flux, sd3, sdxl, stable_diffusion
from safetensors.torch import load_file

from distillkit.config import Components
from distillkit.sampling import noise_for

SCALE = 2.5


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline, and how it is used.

    Attributes:
        stock: its class in diffusers.
        save: makes a teacher's folder.
        part: the part with the network.
        scale: what the pipeline calls the guidance scale.
        negative: the negative prompt; None if none is given.
        size: the pictures', if it is not the pipeline's own.
    """

    stock: str
    save: Callable[[Path], None]
    part: str = "unet"
    scale: str = "guidance_scale"
    negative: str | None = "dog"
    size: tuple[int, int] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The model's, besides its path."""
        given = {"prompts": PROMPTS, "negative_prompt": self.negative, "size": self.size}
        return {key: value for key, value in given.items() if value is not None}

    def arguments(self, scale: float, steps: int) -> dict[str, Any]:
        """What the stock pipeline is told, for one picture of each prompt."""
        size = {} if self.size is None else {"height": self.size[0], "width": self.size[1]}
        negative = {} if self.negative is None else {"negative_prompt": [self.negative] * len(PROMPTS)}
        return {"prompt": list(PROMPTS), "num_inference_steps": steps, self.scale: scale} | negative | size


SD, XL, SD3, FLUX = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
)
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
TAKES_SCALE = {"time_cond_proj_dim": 16}
DEV = {"guidance_embeds": True, "use_dynamic_shifting": True}
KINDS = {
    "sd": Kind(SD, stable_diffusion),
    "sd of v-prediction, zero terminal SNR": Kind(SD, partial(stable_diffusion, **ZERO_SNR), size=(16, 24)),
    "sd that takes the scale": Kind(SD, partial(stable_diffusion, network=TAKES_SCALE), negative=None),
    "sdxl": Kind(XL, sdxl),
    "sdxl without a negative prompt": Kind(XL, partial(sdxl, prediction_type="v_prediction"), negative=None),
    "sd3": Kind(SD3, partial(sd3, shift=3.0), "transformer"),
    "sd3, dynamic shift": Kind(SD3, partial(sd3, use_dynamic_shifting=True), "transformer", size=(8, 16)),
    "flux dev": Kind(FLUX, partial(flux, **DEV), "transformer", negative=None, size=(16, 24)),
    "flux schnell": Kind(FLUX, flux, "transformer", "true_cfg_scale", size=(16, 16)),
}


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind's folder."""
    top = tmp_path_factory.mktemp("teachers")
    for i, kind in enumerate(KINDS.values()):
        kind.save(top / str(i))
    return {name: top / str(i) for i, name in enumerate(KINDS)}


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_samples_as_the_stock_pipeline(teachers: dict[str, Path], name: str, scale: float) -> None:
    kind, folder = KINDS[name], teachers[name]
    model = load(folder, **kind.options)
    noise = noise_for(0, range(3), model.spec.sample_shape)
    pipe = getattr(diffusers, kind.stock).from_pretrained(folder)
    for steps in (1, 4):
        theirs = stock(pipe, noise, **kind.arguments(scale, steps))
        ours = own(model, noise, steps, [0, 1, 2], scale)
        assert ours.std() > 0.05
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


STOCK_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
    "dpmsolver++-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc-karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
}


# diffusers' solvers have not kept up with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_solvers_sample_as_the_stock_pipeline_with_another_scheduler(teachers: dict[str, Path], name: str) -> None:
    if name == "flux schnell":
        pytest.skip("FluxPipeline passes its scheduler a dynamic shift, which these do not take without using it")
    kind, folder = KINDS[name], teachers[name]
    model = load(folder, **kind.options)
    noise = noise_for(0, range(3), model.spec.sample_shape)
    pipe = getattr(diffusers, kind.stock).from_pretrained(folder)
    before = pipe.scheduler.config
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": before.get("shift")}
    if kind.stock == FLUX:  # which always passes a dynamic shift
        flow |= {"use_dynamic_shifting": True}
    images = []
    for solver in model.spec.solvers:
        scheduler, fields = STOCK_SOLVERS[solver]
        own_path = flow if kind.part == "transformer" else {"timestep_spacing": "trailing"}
        for steps in (1, 4):
            pipe.scheduler = getattr(diffusers, scheduler).from_config(before, **fields, **own_path)
            theirs = stock(pipe, noise, **kind.arguments(SCALE, steps))
            images.append(own(model, noise, steps, [0, 1, 2], SCALE, solver))
            assert images[-1].std() > 0.05
            torch.testing.assert_close(images[-1], theirs, rtol=0, atol=1e-4)
    assert (images[1] - images[3]).abs().max() > 1e-4


def test_what_it_is_told_matters(teachers: dict[str, Path], name: str) -> None:
    """Prompts, guidance, the negative prompt: none of them is without effect, or what is compared above says little."""
    kind = KINDS[name]
    model = load(teachers[name], **kind.options)
    noise = noise_for(0, range(3), model.spec.sample_shape)
    base = own(model, noise, 2, [0, 1, 2], SCALE)
    for pictures in (own(model, noise, 2, [1, 1, 2], SCALE), own(model, noise, 2, [0, 1, 2], 1.0)):
        assert (pictures - base).abs().amax((1, 2, 3))[0] > 1e-3
    if kind.negative is not None:
        other = load(teachers[name], **kind.options | {"negative_prompt": "a walk"})
        assert (own(other, noise, 2, [0, 1, 2], SCALE) - base).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.fixture(scope="module")
def runs(teachers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, Components]]:
    """Every kind's run."""
    top = tmp_path_factory.mktemp("runs")
    made = {}
    for i, (name, kind) in enumerate(KINDS.items()):
        lines = [f"{key} = {json.dumps(value)}" for key, value in kind.options.items()]
        guided = ("source.guidance=[1.0, 3.0]", f"evaluation.guidance={SCALE}", "run.updates=2")
        made[name] = distil(top / str(i), teachers[name], "dsdi", *guided, model="\n".join(lines))
    return made


def test_only_the_network_is_trained(
    teachers: dict[str, Path], runs: dict[str, tuple[Run, Components]], name: str
) -> None:
    kind, (run, made) = KINDS[name], runs[name]
    family: Any = made.model.family
    assert_trained_alone(run, made, [family.autoencoder.network])
    # No text encoder is left.
    assert [key for key, value in vars(family).items() if isinstance(value, torch.nn.Module)] == ["network"]
    before, after = (
        load_file(folder / kind.part / "diffusion_pytorch_model.safetensors")
        for folder in (teachers[name], run.folder / "pipeline")
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(after[key], weight) for key, weight in before.items())


def test_the_other_parts_are_as_they_came(
    teachers: dict[str, Path], runs: dict[str, tuple[Run, Components]], name: str
) -> None:
    exported = runs[name][0].folder / "pipeline"
    for folder in [teachers[name], *(part for part in teachers[name].iterdir() if part.is_dir())]:
        part = folder.relative_to(teachers[name])
        if part.name not in ("", KINDS[name].part, "scheduler"):
            files = sorted(file.name for file in folder.iterdir())
            assert files == sorted(file.name for file in (exported / part).iterdir())
            for file in files:
                assert (folder / file).read_bytes() == (exported / part / file).read_bytes()
    before, after = (
        json.loads((folder / "model_index.json").read_text(encoding="utf-8")) for folder in (teachers[name], exported)
    )
    assert before | {"scheduler": after["scheduler"]} == after


@pytest.fixture(scope="module")
def images(
    runs: dict[str, tuple[Run, Components]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """What a process without distillkit draws with every kind's export."""
    cases, noises = {}, {}
    for name, kind in KINDS.items():
        run, made = runs[name]
        arguments = kind.arguments(SCALE, 2)
        cases[name] = {"folder": str(run.folder / "pipeline"), "loading": {}, "arguments": arguments}
        noises[name] = noise_for(0, range(3), made.model.spec.sample_shape)
    return stock_alone_all(cases, noises, tmp_path_factory.mktemp("alone") / "here")


def test_an_export_samples_the_same_where_there_is_no_distillkit(
    runs: dict[str, tuple[Run, Components]], images: dict[str, torch.Tensor], name: str
) -> None:
    folder = runs[name][0].folder / "pipeline"
    model = load(folder, **KINDS[name].options)
    ours = own(model, noise_for(0, range(3), model.spec.sample_shape), 2, [0, 1, 2], SCALE)
    torch.testing.assert_close(images[name], ours, rtol=0, atol=1e-5)


def test_an_export_says_how_it_was_trained(runs: dict[str, tuple[Run, Components]], name: str) -> None:
    """Its scheduler has the run's grid, and its model card the steps and the scale, in a snippet that runs."""
    run, made = runs[name]
    folder = run.folder / "pipeline"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: text-to-image\n")
    assert "A diffusion model that samples in **2 steps**" in card
    assert f"- Guidance: scale {SCALE}" in card
    [snippet] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(snippet.replace("path/to/this/folder", str(folder)), scope)
    _, height, width = made.model.spec.sample_shape
    assert [image.size for image in scope["images"]] == [(2 * width, 2 * height)]
    assert f"    {KINDS[name].scale}={SCALE},\n" in snippet
    pipe = scope["pipe"]
    assert pipe.num_timesteps == 2
    path = made.model.spec.with_grid(made.grid.spacing, made.grid.start).path
    torch.testing.assert_close(pipe.scheduler.timesteps.double(), path.grid(2)[:-1].double())
