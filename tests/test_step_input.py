"""`model.step_input`: the network is told the size of its steps, and is exported without the input for some N."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import DiffusionPipeline, DiTPipeline, EDMEulerScheduler
from distillkit_diffusers import step_input
from distillkit_diffusers.model import DiffusersModel
from distillkit_engines.torch_engine import TorchEngine
from helpers.compvis.model import class_conditional_teacher
from helpers.digits import MODEL, PLAIN, TEACHER, distil, read_checkpoint, settings
from helpers.networks import ddim_scheduler, ddpm_pipeline, dit, kl_autoencoder, latent_pipeline, pixel_unet
from helpers.pipelines import distil as distil_folder
from helpers.pipelines import load, own, stock, stock_alone_all
from helpers.text_pipelines import PROMPTS, flux, sd3, sdxl, stable_diffusion
from safetensors.torch import load_file
from torch import Tensor, nn

import distillkit
from distillkit.cli.group import cli
from distillkit.cli.measure import device_memory
from distillkit.config import make_plan, read_config
from distillkit.config.choose import Wish, choose
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Export, OptimizerTable
from distillkit.noise import GUIDANCE, STEP_SIZE, Condition, Predictor
from distillkit.sampling import sample, sample_consistency
from distillkit.training.assemble import load as load_parts
from distillkit.training.assemble import prepare
from distillkit.training.loop import Position, updates
from distillkit.training.run import run


def dit_pipeline(folder: Path) -> None:
    DiTPipeline(dit(num_embeds_ada_norm=1000), kl_autoencoder(), ddim_scheduler()).save_pretrained(folder)


def with_classes(scheduler: Any, folder: Path) -> None:
    """In pixel space; the last of the 11 classes is "no class"."""
    pixel_unet(num_class_embeds=11).save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")


FAMILIES: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "pixel": (ddpm_pipeline, {}),
    "class-pixel": (partial(with_classes, ddim_scheduler()), {"null_class": 10}),
    "latent": (latent_pipeline, {}),
    "class-latent": (class_conditional_teacher, {}),
    "dit": (dit_pipeline, {}),
    "edm": (partial(with_classes, EDMEulerScheduler()), {"null_class": 10}),
    "sd": (stable_diffusion, {"prompts": PROMPTS[:2]}),
    "sdxl": (sdxl, {"prompts": PROMPTS[:2]}),
    "sd3": (sd3, {"prompts": PROMPTS[:2]}),
    "flux": (flux, {"prompts": PROMPTS[:2], "size": 16}),
    "flux-guidance": (partial(flux, guidance_embeds=True), {"prompts": PROMPTS[:2], "size": 16}),
}


def predictor_of(model: DiffusersModel) -> Predictor:
    spec = model.spec
    return Predictor(model.network, spec.path, spec.prediction, model.forward, step_input=model.step_input)


def start(model: DiffusersModel, *scales: float) -> tuple[Tensor, Condition]:
    """Noise for two samples, and their condition, guided where the model can be."""
    labels = None if model.spec.classes is None else torch.tensor([0, 1])
    guided = model.spec.supports_guidance or model.spec.guidance_input is not None
    guidance = torch.tensor(scales or (1.5, 2.0)) if guided else None
    noise = torch.randn(2, *model.spec.sample_shape, generator=torch.Generator().manual_seed(1))
    return noise, model.condition(labels, 2, guidance)


def without(condition: Condition) -> Condition:
    return replace(condition, guidance=None)


def shake(network: nn.Module, scale: float = 0.1) -> None:
    """Give the embeddings weights, as training does."""
    torch.manual_seed(2)
    for name in step_input.added(network):
        embedding: Any = getattr(network, step_input.EMBEDDINGS[name])
        for weight in embedding["outs"].parameters():
            nn.init.normal_(weight, std=scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_at_first_it_changes_nothing_and_then_it_folds(name: str, tmp_path: Path) -> None:
    """The same to the bit at every step size and scale, for the teacher, which is guided, and for the student.

    Trained, the folded network is the told one; folding can be undone. `distill` guides the teacher alone, unless the
    network takes the scale already.
    """
    make, options = FAMILIES[name]
    folder = make(tmp_path / "teacher") or tmp_path / "teacher"
    plain, told = (load(folder, **options, step_input=wanted) for wanted in (False, True))
    noise, guided = start(plain)
    scaled = plain.spec.supports_guidance and plain.spec.guidance_input is None
    if scaled:
        told.add_guidance_input(1.0, 3.0)
    if guided.null is not None:
        words = [f"model.{key}={value}" for key, value in options.items() if key != "prompts"]
        (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]), encoding="utf-8")
        prompts = tmp_path / "prompts.txt" if "prompts" in options else None
        chosen, _ = choose(Wish(str(folder), 4, "any-step", None, 2.0, prompts), words, device_memory)
        parts = chosen.phases[0].components()
        assert (parts.baked, parts.source.options.guidance) == (scaled, 2.0)
        assert parts.evaluation.guidance == (1.0 if scaled else 2.0)
        assert {stage.evaluations for stage in make_plan(parts)} == {parts.optimizer.accumulate}
    _, condition = start(told)
    ways = {"teacher": (guided, told.spec.before_training(condition)), "student": (without(guided), condition)}
    for before, now in ways.values() if scaled else [(guided, condition)]:
        for steps in (1, 3):
            expected = sample(predictor_of(plain), noise, before, steps)
            assert torch.equal(sample(predictor_of(told), noise, now, steps), expected)
    shake(told.network)
    _, guided = start(plain, 2.0, 2.0)
    _, condition = start(told, 2.0, 2.0)
    expected = sample(predictor_of(told), noise, condition, 3)
    before = sample(predictor_of(plain), noise, without(guided) if scaled else guided, 3)
    difference = (expected - before).abs().max()
    assert difference > 1e-4 * before.abs().max()
    # Of the embedding's effect; ε-networks' samples are large.
    close = partial(torch.testing.assert_close, rtol=0, atol=float(difference) * 1e-3)
    # A copy is told by itself.
    copied = predictor_of(told).frozen_copy()
    shake(told.network, 0.0)
    close(sample(copied, noise, condition, 3), expected)
    assert torch.equal(sample(predictor_of(told), noise, condition, 3), before)
    network = copied.network
    state = step_input.fold(network, {STEP_SIZE: 1 / 3, GUIDANCE: 2.0})
    assert network.state_dict().keys() == plain.network.state_dict().keys()
    folded = Predictor(network, plain.spec.path, plain.spec.prediction, plain.forward)
    alone = without(guided) if scaled else guided
    close(sample(folded, noise, alone, 3), expected)
    step_input.restore(network, state)
    again = Predictor(network, plain.spec.path, plain.spec.prediction, told.forward, step_input=True)
    close(sample(again, noise, condition, 3), expected)


FAST = ("optimizer.learning_rate=1e-2", "optimizer.final_learning_rate=1e-2", "ema.decay=0.5", "source.staggered=true")
STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "pixel": ("", {"batch_size": 2}),
    "dit": ("", {"class_labels": [0, 1], "guidance_scale": 1.0}),
    "sd": (f"prompts = {list(PROMPTS[:2])}", {"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0}),
    "sd3": (f"prompts = {list(PROMPTS[:2])}", {"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0}),
}


@pytest.mark.parametrize(
    ("name", "adapter"), [*((name, False) for name in STOCK), ("pixel", True), ("sd", True)], ids=str
)
def test_exports_are_stock_pipelines(name: str, adapter: bool, tmp_path: Path) -> None:
    """A student of 2 steps, sampled by diffusers; and the folder, opened here, serves the other numbers too."""
    table, arguments = STOCK[name]
    make, options = FAMILIES[name]
    make(tmp_path / "teacher")
    lora = ('student={adapter="lora", rank=2}',) if adapter else ()
    guided = ("source.guidance=1", "evaluation.guidance=1")
    words = (*FAST, *lora, *guided, "model.step_input=true")
    found, made = distil_folder(tmp_path, tmp_path / "teacher", "dsdi", *words, model=table)
    model = made.model
    assert isinstance(model, DiffusersModel)
    noise, _ = start(model)
    labels = None if model.spec.classes is None else [0, 1]
    opened = load(found.folder / "pipeline", **options)
    assert opened.step_input
    model.spec = replace(model.spec, path=opened.spec.path)
    with made.engine.averaged():
        expected = {steps: own(model, noise, steps, labels) for steps in (2, 4)}
    pipe = DiffusionPipeline.from_pretrained(found.folder / "pipeline")
    images = stock(pipe, noise, num_inference_steps=2, **arguments)
    torch.testing.assert_close(images, expected[2], rtol=0, atol=1e-5)
    for steps, images in expected.items():
        torch.testing.assert_close(own(opened, noise, steps, labels), images, rtol=0, atol=1e-5)
    if adapter:
        assert_right_with_the_biases(found.folder, tmp_path / "teacher", pipe)
    # The embedding was trained, and tells 2 steps from 4.
    shake(opened.network, 0.0)
    assert (own(opened, noise, 2, labels) - expected[2]).abs().max() > 1e-5


def assert_right_with_the_biases(run_folder: Path, teacher: Path, pipe: Any) -> None:
    """The teacher with the LoRA alone is not the student, and with the biases of `linear_2` too it is."""
    assert "A LoRA that is not complete" in (run_folder / "lora/README.md").read_text(encoding="utf-8")
    bare = DiffusionPipeline.from_pretrained(teacher).unet
    wanted = pipe.unet.state_dict()
    written = load_file(run_folder / "lora/pytorch_lora_weights.safetensors")
    for name in {key.partition(".lora_")[0] for key in written}:
        layer = bare.get_submodule(name.removeprefix("unet."))
        b, a = (written[f"{name}.lora_{one}.weight"] for one in "BA")
        layer.weight.data += (b.flatten(1) @ a.flatten(1)).view_as(layer.weight)
    wrong = [key for key, weight in bare.state_dict().items() if not torch.allclose(weight, wanted[key], atol=1e-6)]
    assert wrong
    assert all(key.endswith("linear_2.bias") for key in wrong)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM-Solver++
def test_export_for_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`distillkit export`: and `load_pipeline`: the same student as a stock pipeline for 3 steps."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    ddpm_pipeline(tmp_path / "teacher")
    found, _ = distil_folder(tmp_path, tmp_path / "teacher", "dsdi", *FAST, "model.step_input=true")

    def call(*words: object) -> Result:
        return CliRunner().invoke(cli, ["export", *map(str, words)], catch_exceptions=False)

    # As if it had been taught several at once.
    config = found.folder / "config.toml"
    as_written = config.read_text(encoding="utf-8")
    config.write_text(as_written.replace("[source]", "[source]\nlevels = [1, 2]"), encoding="utf-8")
    made = call(found.folder, "--steps", 3)
    said = f"{found.folder / 'steps-003'}: a pipeline for 3 steps\n"
    said += (
        "note: the student was taught at most 2 steps (source.levels), and not 3: compare the samples with those in 2 "
    )
    assert (made.exit_code, made.output) == (0, f"{said}steps\n")
    config.write_text(as_written, encoding="utf-8")
    opened = load(found.folder / "pipeline")
    noise, _ = start(opened)
    pipe = DiffusionPipeline.from_pretrained(found.folder / "steps-003")
    images, expected = stock(pipe, noise, batch_size=2, num_inference_steps=3), own(opened, noise, 3)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert not [name for name in pipe.unet.state_dict() if "step_embedding" in name]
    # And that folder serves all numbers as well.
    torch.testing.assert_close(
        own(load(found.folder / "steps-003"), noise, 2), own(opened, noise, 2), rtol=0, atol=1e-5
    )
    shake(opened.network, 0.0)
    assert (own(opened, noise, 3) - expected).abs().max() > 1e-4
    both = call(found.folder, "--steps", "2,3", "--output", tmp_path / "both")
    assert (both.exit_code, both.output) == (0, f"{tmp_path / 'both'}: a pipeline for 2 or 3 steps\n")
    card = (tmp_path / "both/README.md").read_text(encoding="utf-8")
    assert "samples in **2 or 3 steps**" in card
    assert '"path/to/this/folder", trust_remote_code=True)' in card
    two = stock(
        DiffusionPipeline.from_pretrained(found.folder / "pipeline"), noise, batch_size=2, num_inference_steps=2
    )
    assert_loaded_alike(found.folder, tmp_path, noise, {2: two, 3: images})
    (found.folder / "pipeline" / step_input.FILE).unlink()
    refused = call(found.folder, "--steps", "2,3", "--output", tmp_path / "none")
    assert (refused.exit_code, (tmp_path / "none").exists()) == (2, False)
    assert "steps: the network does not take the step size, so that no folder serves several" in refused.output
    again = call(found.folder, "--steps", 3)
    assert again.exit_code == 2
    assert again.output.endswith("already exists; nothing was overwritten. Give a new folder with --output\n")
    stranger = call(tmp_path / "teacher", "--steps", 3)
    assert stranger.exit_code == 2
    assert "is not the folder of a finished run; expected config.toml and pipeline/ in it" in stranger.output


def assert_loaded_alike(run_folder: Path, scratch: Path, noise: Tensor, expected: dict[int, Tensor]) -> None:
    """To the bit what was exported, from the run and from a folder for 2 and 3 steps; nothing is left behind."""
    written = {path: path.stat().st_mtime_ns for path in (run_folder, scratch / "both")}
    for folder in (run_folder, str(scratch / "both")):
        for steps, images in expected.items():
            pipe = distillkit.load_pipeline(folder, steps)
            assert type(pipe).__module__.startswith("diffusers.pipelines.")
            assert torch.equal(stock(pipe, noise, batch_size=2, num_inference_steps=steps), images)
            assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if "temporary" in line]
        own_one = distillkit.load_pipeline(folder)
        assert torch.equal(stock(own_one, noise, batch_size=2, num_inference_steps=2), expected[2])
    assert not [*(scratch / "temporary").iterdir()]
    assert written == {path: path.stat().st_mtime_ns for path in written}
    for folder, steps, guidance, said in (
        (
            scratch / "nowhere",
            3,
            None,
            "nowhere: is neither an exported pipeline nor the folder of a finished run; exp",
        ),
        (run_folder, 1001, None, "a grid of 1001 steps needs 1 to 832 steps"),
        (run_folder, 0, None, r"steps: must be at least 1 \(got 0\)"),
        (run_folder, None, 2.0, "guidance: is given without steps"),
        (run_folder, 3, 2.0, "guidance: the model has no null class"),
        (run_folder, 3, 0.5, r"guidance: must be 1 \(none\) or more, as diffusers' pipelines guide above 1 only"),
    ):
        with pytest.raises(DistillkitError, match=said):
            distillkit.load_pipeline(folder, steps, guidance)


SEVERAL: dict[str, tuple[dict[str, Any], str]] = {
    # the call, and how many evaluations are handed their times
    "pixel": ({"batch_size": 2}, "trailing"),
    "latent": ({"batch_size": 2}, "trailing"),
    "class-latent": ({"class_labels": [0, 1], "guidance_scale": 1.0}, "trailing + angle"),
    "dit": ({"class_labels": [0, 1], "guidance_scale": 1.0}, "trailing"),
    "edm": ({"class_labels": [0, 1], "guidance_scale": 1.0}, "karras"),
    "sd": ({"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0, "height": 16, "width": 16}, "angle"),
    "sdxl": ({"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0}, "trailing"),
    "sd3": ({"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0}, "trailing + angle"),
    "flux-guidance": ({"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0, "height": 16, "width": 16}, "trailing"),
}


def several(name: str, folder: Path, counts: tuple[int, ...] = (2, 1, 3)) -> DiffusersModel:
    """A student of a family, exported for several numbers of steps."""
    make, options = FAMILIES[name]
    folder.mkdir()
    made = load(make(folder / "teacher") or folder / "teacher", **options, step_input=True)
    shake(made.network)
    made.spec = made.spec.with_grid(SEVERAL[name][1], "auto")
    about = {"run": {"name": "tiny", "updates": 3}}
    export = Export(made.spec.path, counts[0], [counts[0]], 1.0, "any-step", "a teacher", [], about, several=counts)
    made.export(copy.deepcopy(made.network), folder / "pipeline", export)
    return made


def test_one_folder_for_several_numbers_of_steps(tmp_path: Path) -> None:
    """Every family, sampled by a process without distillkit: as distillkit samples at each of them."""
    expected, cases, noises = {}, {}, {}
    for name, (arguments, _) in SEVERAL.items():
        made = several(name, tmp_path / name)
        noise, _ = start(made)
        labels = None if made.spec.classes is None else [0, 1]
        folder = tmp_path / name / "pipeline"
        for steps in (1, 2, 3):
            case = f"{name}, {steps} steps"
            expected[case], noises[case] = own(made, noise, steps, labels), noise.clone()
            loading = {"custom_pipeline": str(folder), "trust_remote_code": True}
            call = arguments | {"num_inference_steps": steps}
            cases[case] = {"folder": str(folder), "loading": loading, "arguments": call}
        if name in ("sd", "sd3"):
            # By their times alone.
            [handed] = json.loads((folder / "step_table/config.json").read_text(encoding="utf-8"))["times"]["3"].items()
            case = f"{name}, {handed[0]}"
            expected[case], noises[case] = expected[f"{name}, 3 steps"], noise.clone()
            cases[case] = {**cases[f"{name}, 3 steps"], "arguments": arguments | dict([handed])}
    images = stock_alone_all(cases, noises, tmp_path / "alone")
    for case, wanted in expected.items():
        assert wanted.std() > 0.01
        assert (images[case] - wanted).abs().max() <= 1e-5, case


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM-Solver++
def test_what_is_done_to_a_pipeline_for_several_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, with a LoRA, offloaded layer by layer, saved again, opened here; and another number is refused."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    # Other tests may have imported a pipeline's code from another cache, which is still on the path.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not Path(place, "diffusers_modules").is_dir()])
    for module in [name for name in sys.modules if name.partition(".")[0] == "diffusers_modules"]:
        monkeypatch.delitem(sys.modules, module)
    made = several("class-latent", tmp_path / "made")
    noise, _ = start(made)
    expected = {steps: own(made, noise, steps, [0, 1]) for steps in (1, 2, 3)}

    def check(pipe: Any) -> None:
        for steps in (3, 1, None):
            images = stock(pipe, noise, class_labels=[0, 1], num_inference_steps=steps)
            torch.testing.assert_close(images, expected[steps or 2], rtol=0, atol=1e-5)

    pipe = DiffusionPipeline.from_pretrained(tmp_path / "made/pipeline", trust_remote_code=True)
    check(pipe)
    with pytest.raises(
        ValueError, match=r"^num_inference_steps, or how .* must be one of 2, 1, 3, which .* \(got 4\)$"
    ):
        pipe([0], num_inference_steps=4)
    pipe.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True)
    again.unet = torch.compile(again.unet, backend="eager")
    check(again)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["linear_2"]), pipe.unet)
    check(pipe)
    offloaded = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True)
    accelerate.cpu_offload(offloaded.unet, torch.device("cpu"))
    accelerate.cpu_offload(offloaded.step_table, torch.device("cpu"))
    assert next(offloaded.unet.parameters()).is_meta
    check(offloaded)
    opened = load(tmp_path / "again")
    assert not opened.step_input
    opened = load(tmp_path / "made/pipeline")
    for steps, images in expected.items():
        torch.testing.assert_close(own(opened, noise, steps, [0, 1]), images, rtol=0, atol=1e-5)


PRESETS = {
    "dsdi": ("schedule.start=8", "run.updates=4"),
    "dsd-anchored": ("schedule.start=8", "schedule.cycles=1", "run.updates=4"),
    "tsd": ("schedule.start=4", "run.updates=4"),
    "pd": ("schedule.start=4", "run.updates=4"),
    "luhman": ("schedule.steps=4", "run.updates=2"),
    "luhman-cached": ("schedule.steps=4", "source.trajectories=4", "source.shard=4", "run.updates=2"),
    "matching": ("schedule.steps=8", "run.updates=3"),
    "consistency": ("schedule.steps=8", "run.updates=3", "evaluation.steps=[1, 2]"),
    "dsd-training": ("schedule.steps=8", "run.updates=3"),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_with_it(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs what the plan says, trains the embedding, and is exported without it."""
    monkeypatch.chdir(tmp_path)
    words = (*PRESETS[preset], "model.step_input=true", "source.batch=4", "run.log_every=1")
    planned = settings(tmp_path, preset, *words)
    plan = make_plan(planned.components())
    found = distil(tmp_path / "run", preset, *words)
    costs = [line["evaluations"] for line in found.journal]
    assert costs == [stage.evaluations for stage in plan for _ in range(stage.updates)]
    [checkpoint] = (found.folder / "checkpoints").iterdir()
    trained = read_checkpoint(checkpoint)
    assert trained["engine/network.step_embedding.outs.0.weight"].abs().max() > 0
    assert not [name for name in found.weights() if "step_embedding" in name]
    assert (found.folder / "pipeline" / step_input.FILE).is_file()


def test_a_jump_and_its_fine_steps_are_told_apart(tmp_path: Path) -> None:
    """DSD with itself as teacher: the student hears of the jump, the teacher of the fine step, also the first one."""
    parts = load_parts(
        settings(tmp_path, "dsdi", "schedule.start=8", "model.step_input=true", "run.updates=4").components()
    )
    told: list[float] = []
    model = parts.components.model
    forward = model.forward

    def listen(network: nn.Module, z: Tensor, t: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        told.extend(inputs[STEP_SIZE].unique().tolist())
        return forward(network, z, t, inputs)

    parts.student.forward_network = listen  # type: ignore[assignment]
    teacher, target = parts.components.teacher, parts.components.target
    assert teacher is not None
    assert target is not None
    assert not teacher.reuses_student
    teacher.setup(parts.student)
    prepare(parts)
    next(updates(parts, Position(), lambda _: None))
    assert told == [2 / 8, 1 / 8, 1 / 8]


def test_sampling_tells_the_number_of_steps() -> None:
    told: list[Tensor] = []

    def listen(network: nn.Module, z: Tensor, t: Tensor, inputs: Any) -> Tensor:
        told.append(inputs[STEP_SIZE])
        return torch.zeros_like(z)

    model = load(TEACHER)
    predictor = Predictor(model.network, model.spec.path, "v_prediction", listen, step_input=True)
    noise, condition = start(model)
    sample(predictor, noise, condition, 4)
    # Guidance doubles the batch.
    assert [size.tolist() for size in told] == [[0.25] * 4] * 4
    told.clear()
    sample_consistency(predictor, lambda _: noise, condition, 2)
    assert [size.tolist() for size in told] == [[1.0] * 4] * 2
    with pytest.raises(ValueError, match="takes the step size, and is not told it"):
        predictor(noise, torch.tensor([9, 9]), condition)


class Step(nn.Module):
    """A loss of a network that is told one size, and asked about another one before the backward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
        self.inputs = (z, t, torch.tensor([3, 9]))

    def forward(self, size: Tensor) -> Tensor:
        with step_input.telling(self.network, {STEP_SIZE: size}):
            output: Tensor = self.network(*self.inputs, return_dict=False)[0]
        with torch.no_grad(), step_input.telling(self.network, {STEP_SIZE: size / 2}):
            goal: Tensor = self.network(*self.inputs, return_dict=False)[0]
        return (output - goal).square().mean()


def test_gradient_checkpointing_is_told_the_same_again() -> None:
    """DiT has a time embedding in every block, which the backward pass computes again."""
    gradients = []
    for recompute in (False, True):
        network = dit(num_embeds_ada_norm=10)
        torch.manual_seed(3)
        step_input.add(network)
        shake(network)
        engine = TorchEngine(TorchEngine.Options(device="cpu", gradient_checkpointing=recompute))
        engine.setup()
        engine.prepare(Step(network.eval()), network, OptimizerTable(), None)
        engine.forward(torch.tensor([0.5, 0.25])).backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None})
    plain, again = gradients
    assert "step_embedding.outs.1.weight" in plain
    assert plain["step_embedding.outs.1.weight"].abs().max() > 1e-6
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-9)


def test_a_chain_goes_on_with_it(tmp_path: Path) -> None:
    """The second phase begins with the student of the first, at every number of steps."""
    text = MODEL + "step_input = true\n" + PLAIN + "[source]\nbatch = 4\n"
    text += '[[phase]]\npreset = "dsdi"\nrun = { updates = 3 }\nschedule = { start = 4 }\n'
    text += '[[phase]]\npreset = "pd"\nrun = { updates = 2 }\nschedule = { start = 4 }\n'
    (tmp_path / "chain.toml").write_text(text, encoding="utf-8")
    run(read_config(tmp_path / "chain.toml"), tmp_path / "run")
    first, second = (load(tmp_path / f"run/phases/{i}/pipeline") for i in (1, 2))
    assert first.step_input
    assert second.step_input
    states = [load_file(tmp_path / f"run/phases/{i}/pipeline" / step_input.FILE) for i in (1, 2)]
    made = CliRunner().invoke(cli, ["export", str(tmp_path / "run"), "--steps", "3"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    noise, _ = start(second)
    torch.testing.assert_close(
        own(load(tmp_path / "run/steps-003"), noise, 3, [0, 1]), own(second, noise, 3, [0, 1]), rtol=0, atol=1e-5
    )
    # Adam moves a weight by no more than the learning rate (2e-4) a step.
    moved = (states[1]["step_embedding.outs.0.weight"] - states[0]["step_embedding.outs.0.weight"]).abs().max()
    assert 0 < moved < 1e-3


def test_mistakes(tmp_path: Path) -> None:
    tables = MODEL + PLAIN
    with pytest.raises(ConfigError) as raised:
        settings(tmp_path, "training", "model.step_input=true", "run.updates=1", tables=tables)
    [mistake] = raised.value.mistakes
    assert str(mistake) == (
        "model.step_input: tells the network the size of the jumps that a target or a critic teaches it, and the run "
        "has neither; leave it out"
    )
    with pytest.raises(DistillkitError, match=r"^model\.step_input: Conv2d has no TimestepEmbedding, to whose output"):
        step_input.add(nn.Conv2d(1, 1, 1))
    network = pixel_unet()
    step_input.add(network)
    state = step_input.fold(network, {STEP_SIZE: 1.0})
    with pytest.raises(DistillkitError, match=r"^step_input\.safetensors: does not fit the network"):
        step_input.restore(network, {**state, "step_embedding.outs.0.bias": torch.zeros(3)})
