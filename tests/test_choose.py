"""What `distillkit distill` chooses: for steps, methods, sizes and machines that are nowhere here. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from distillkit_diffusers.model import DiffusersModel
from distillkit_engines.torch_engine import TorchEngine
from distillkit_schedules.schedules import Halving
from helpers.digits import TEACHER
from helpers.networks import pixel_unet
from helpers.text_pipelines import flux, sd3

from distillkit import __version__, distributed
from distillkit.cli.summary import describe
from distillkit.config import Components, make_plan
from distillkit.config.choose import choose
from distillkit.config.fit import Memory, encoding, estimate, fit
from distillkit.config.wish import Wish
from distillkit.errors import DistillkitError
from distillkit.files import readable_bytes
from distillkit.interfaces import PREVIOUS, Engine, Inventory, StudentTable
from distillkit.registry import Scale, load_registry

GB = 10**9
DSD = ["dsdn", "dsdi", "dsdgl", "dsdgexp", "tsd", "dsd-anchored"]
CELEBA = Inventory("LDMPipeline", 274_056_163, 55_323_136, 64 * 64, 1.0)
"""CelebA-HQ's latent diffusion model."""
REGISTRY = load_registry()
TINY = Scale(1_220_000, 240)


def chosen(method: str, steps: int, *overrides: str, **wish: Any) -> Components:
    return (
        choose(Wish(str(TEACHER), steps, method, **wish), overrides, lambda _: 24 * GB, REGISTRY)[0]
        .phases[0]
        .components()
    )


def refusal(method: str, steps: int = 4, *overrides: str, **wish: Any) -> str:
    with pytest.raises(DistillkitError) as caught:
        chosen(method, steps, *overrides, **wish)
    return str(caught.value)


@pytest.mark.parametrize(
    ("owner", "method", "answer", "sentence"),
    [
        (Halving, "ending_at", ["stop"], "ending_at() gave ['stop']; expected options by name, or None"),
        (
            Halving,
            "ending_at",
            {"stop": 8},
            "ending_at() gave options with which the last stage has N = 8; expected N = 16",
        ),
        (
            Halving,
            "ending_at",
            {"to": 8},
            "ending_at() gave {'to': 8}; expected options that it takes (schedule.to: unknown option of 'halving'; "
            "it has: start, stop, cycles — did you mean 'stop'?)",
        ),
        (DiffusersModel, "inventory", {}, "inventory() gave {}; expected an Inventory, or None"),
        (
            DiffusersModel,
            "inventory",
            replace(CELEBA, parameters=2.7e8),
            "inventory().parameters is 270000000.0; expected a whole number of parameters, at least 1",
        ),
        (
            DiffusersModel,
            "inventory",
            replace(CELEBA, size=0),
            "inventory().size is 0; expected a whole number of pixels, at least 1",
        ),
        (
            DiffusersModel,
            "inventory",
            replace(CELEBA, guidance=float("nan")),
            "inventory().guidance is nan; expected a finite number, at least 0",
        ),
        (TorchEngine, "state_bytes", None, "state_bytes() gave None; expected a whole number of bytes, at least 0"),
    ],
)
def test_answers_that_are_none(
    monkeypatch: pytest.MonkeyPatch, owner: type[Any], method: str, answer: Any, sentence: str
) -> None:
    monkeypatch.setattr(owner, method, lambda self, *given, **named: answer)
    kind = {Halving: "schedule", DiffusersModel: "model", TorchEngine: "engine"}[owner]
    assert refusal("dsdi", 8) == f"distillkit {__version__}, {kind} '{owner.name}': {sentence}"


# --- steps and methods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
@pytest.mark.parametrize("method", [*DSD, "matching"])
def test_the_last_stage_serves_the_steps(method: str, steps: int) -> None:
    settings = chosen(method, steps)
    plan = make_plan(settings)
    assert plan[-1].steps == steps * plan[-1].stride
    assert plan[-1].updates > 0
    evaluation = settings.evaluation
    assert (evaluation.steps, evaluation.export_steps) == ((steps, 2 * steps, 4 * steps), steps)
    assert settings.run.name == f"digits_teacher-{steps}-step{'s' * (steps > 1)}"
    taught = {part.steps // part.stride for part in plan}
    if method not in ("dsdn", "matching"):  # what falls passes by the doubles
        assert taught >= {steps, 2 * steps, 4 * steps}


@pytest.mark.parametrize(
    ("method", "steps", "depths", "updates"),
    [
        # Twice as long a trajectory takes twice the updates; the paper's begin at 64 and end earlier.
        ("dsd-anchored", 2, [16, 8, 4] * 8, 240),
        ("dsd-anchored", 4, [32, 16, 8] * 8, 480),
        ("dsd-anchored", 1, [16, 8, 4, 2] * 8, 240),
        ("dsdi", 4, [64, 32, 16, 8], 4000),
        ("dsdi", 3, [96, 48, 24, 12, 6], 6000),
        ("dsdgl", 30, [*range(240, 59, -2)], 15000),
        ("dsdn", 4, [8], 500),
        ("matching", 4, [16], 240),
    ],
)
def test_stages_and_updates(method: str, steps: int, depths: list[int], updates: int) -> None:
    settings = chosen(method, steps)
    assert [part.steps for part in make_plan(settings)] == depths
    assert settings.run.updates == updates
    assert chosen(method, steps, updates=7).run.updates == 7


def test_a_schedule_falls_to_its_end_exactly() -> None:
    for name in ("halving", "convergence", "linear", "exponential", "constant"):
        for start, decrement, last in ((64, 2, 8), (64, 6, 10), (9, 7, 2), (100, 1, 60), (2, 3, 2)):
            schedule = REGISTRY.find("schedule", name)
            options = {"start": start} | ({"decrement": decrement} if name in ("linear", "exponential") else {})
            made = schedule(schedule.Options(**({"steps": start} if name == "constant" else options)))
            ending = schedule(made.options.model_copy(update=made.ending_at(last)))  # type: ignore[attr-defined]
            depths = [steps for steps, _ in ending.shares()]  # type: ignore[attr-defined]
            assert depths[-1] == last
            assert name == "constant" or depths[0] >= max(start, 4 * last)


def test_consistency_keeps_its_steps() -> None:
    """A student that jumps to clean data from anywhere is not taught a number of steps."""
    settings = chosen("consistency", 1)
    assert [part.steps for part in make_plan(settings)] == [16]
    assert (settings.evaluation.sampler, settings.evaluation.export_steps) == ("consistency", 1)


def test_one_jump_over_everything_serves_one_step() -> None:
    assert make_plan(chosen("luhman", 1))[0].steps == 16
    assert refusal("luhman") == "--steps: is 4, and 'luhman' teaches to sample in 1 step; expected 1"


@pytest.mark.parametrize("method", ["pd", "training", "dsd-training"])
def test_methods_that_need_data(method: str) -> None:
    assert refusal(method) == (
        f"--method: '{method}' needs data, and distill is for methods that need none; write a config with a [data] "
        "table, and use distillkit run"
    )


def test_method_that_is_none() -> None:
    assert re.fullmatch(r"--method: no preset is called 'dsdii'; known: .* — did you mean 'dsdi'\?", refusal("dsdii"))


def test_method_that_says_no_updates() -> None:
    message = refusal("guided")
    assert message == "--updates is required: the method 'guided' does not say how many suit it"


def test_schedule_that_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Halving, "ending_at", lambda self, steps: None)
    assert refusal("dsdi") == (
        "--method: the schedule 'halving' of 'dsdi' cannot be set to end at a number of steps; write a config, and use "
        "distillkit run"
    )


def test_what_is_set_goes_over_what_is_chosen() -> None:
    wanted = ["optimizer.learning_rate=0.5", "source.batch=6", "schedule.cycles=1", "engine.precision=fp32"]
    settings = chosen("dsd-anchored", 4, *wanted, guidance=2.5)
    assert (settings.optimizer.learning_rate, settings.source.options.batch, settings.optimizer.accumulate) == (
        0.5,
        6,
        1,
    )
    assert len(make_plan(settings)) == 3
    assert (settings.source.options.guidance, settings.evaluation.guidance) == (2.5, 2.5)


def test_every_data_free_method_can_be_chosen() -> None:
    """But for stage 1 of guided distillation, which makes no few-step student."""
    presets = {name: REGISTRY.preset(name) for name in REGISTRY.presets}
    sources = {name: REGISTRY.find("source", preset.tables["source"]["type"]) for name, preset in presets.items()}
    free = {name for name, source in sources.items() if "data" not in source.gives}  # type: ignore[attr-defined]
    assert {name for name in free if presets[name].scale is None} == {"guided"}


# --- sizes and machines ----------------------------------------------------------------------------------------------


def fitted(
    inventory: Inventory, memory: int, method: str = "dsd-anchored", scale: Scale | None = TINY
) -> dict[str, Any]:
    settings = chosen(method, 4)
    settings.engine.setup()
    return fit(settings, inventory, scale, memory, (), None)


def test_learning_rates_go_with_the_root_of_the_size() -> None:
    table = chosen("dsd-anchored", 4).optimizer
    found = fitted(CELEBA, 24 * GB)["optimizer"]
    factor = sqrt(1_220_000 / 274_056_163)
    assert found["learning_rate"] == pytest.approx(table.learning_rate * factor, rel=0.01)
    assert found["final_learning_rate"] == pytest.approx(table.final_learning_rate * factor, rel=0.05)
    assert "learning_rate" not in fitted(CELEBA, 24 * GB, scale=None)["optimizer"]


def test_the_papers_presets_keep_the_papers_rate_at_the_papers_size() -> None:
    """Table 3: CelebA-HQ."""
    settings = chosen("dsdi", 1, "optimizer.learning_rate=1e-6")
    scale = REGISTRY.preset("dsdi").scale
    found = fit(settings, CELEBA, scale, 24 * GB, (), None)["optimizer"]
    assert found["learning_rate"] == 1e-6


@pytest.mark.parametrize("memory", [8, 10, 16, 24, 40, 80])
def test_batches_are_whole_and_fit(memory: int) -> None:
    found = fitted(CELEBA, memory * GB)
    part, times = found["source"]["batch"], found["optimizer"]["accumulate"]
    assert part * times == 16
    assert found["evaluation"]["batch"] == part


def test_more_memory_makes_larger_batches_and_no_recomputation() -> None:
    found = [fitted(CELEBA, memory * GB) for memory in (8, 16, 24, 40, 80)]
    assert [table["engine"]["gradient_checkpointing"] for table in found] == [True, True, False, False, False]
    plain = [table["source"]["batch"] for table in found[2:]]
    assert plain == sorted(plain)
    assert plain[-1] == 16


def test_an_engine_without_options_gets_none() -> None:
    """`distill` sets precision and recomputation where an engine has them, and asks for neither otherwise."""

    class Bare(TorchEngine):
        name = "bare"
        command_options: ClassVar[Mapping[str, str]] = {}

        class Options(Engine.Options):  # type: ignore[override]
            pass

        state_bytes = Engine.state_bytes

        def setup(self) -> None:
            self.device = torch.device("cpu")

    ours = REGISTRY.components["engine"]["torch"][0]
    bare = replace(ours, name="bare", component=Bare)
    registry = replace(REGISTRY, components=REGISTRY.components | {"engine": {"bare": [bare]}})
    config, inventory = choose(Wish(str(TEACHER), 4, "dsdi"), (), lambda _: GB // 1000 * 60, registry)
    assert config.tables["engine"] == {"type": "bare"}
    components = config.phases[0].components()
    components.engine.setup()
    lines = describe([components], inventory, GB, Path("run"), Path("run/config.toml"))
    assert "engine    bare on cpu" in lines


def test_guidance_is_the_pipelines_and_counts_twice() -> None:
    guided = Inventory("DiTPipeline", 675_000_000, 84_000_000, 32 * 32, 4.0)
    found, plain = fitted(guided, 40 * GB), fitted(Inventory("x", 675_000_000, 84_000_000, 32 * 32, 1.0), 40 * GB)
    assert (found["source"]["guidance"], found["evaluation"]["guidance"]) == (4.0, 4.0)
    assert "guidance" not in plain["source"]
    assert found["source"]["batch"] == plain["source"]["batch"] / 2


def test_networks_that_do_not_fit() -> None:
    with pytest.raises(DistillkitError) as caught:
        fitted(CELEBA, 6 * GB)
    assert str(caught.value) == (
        "the networks alone take 6.8 GB, and cpu has 6 GB; choose a method that holds fewer of them (--method; "
        "docs/methods.md), another device (--set engine.device=…), or a smaller model"
    )
    # DSD holds none beside the student.
    assert fitted(CELEBA, 6 * GB, "dsdi")["source"]["batch"] >= 1


@pytest.mark.parametrize(
    ("method", "per_weight"), [("dsdi", 20), ("dsd-anchored", 24), ("tsd", 24), ("consistency", 28), ("matching", 20)]
)
def test_bytes_per_parameter(method: str, per_weight: int) -> None:
    """16 for AdamW in float32, 4 for the average (which `matching` has not) and for each copy that teaches."""
    found = estimate(chosen(method, 4), Inventory("x", 1000, 10, None, 1.0))
    assert found.total == 1000 * per_weight + 40
    assert found.frozen == 40
    assert isinstance(found, Memory)


def of_machine(size: int) -> Callable[[Engine], int]:
    def memory(engine: Engine) -> int:
        engine.setup()
        return size

    return memory


@pytest.mark.parametrize(("room", "expected"), [(25, "torch None"), (19, "deepspeed 2"), (17, "deepspeed 3")])
def test_an_engine_that_takes_less(monkeypatch: pytest.MonkeyPatch, room: int, expected: str) -> None:
    """Two processes share what one does not hold. Bytes a weight, with an average and a teacher's copy: 24 with plain
    torch; ZeRO-2 4 + 4/2 + 16/2 + 4, ZeRO-3 24/2 + 4."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "init", lambda device, timeout: None)
    wish = Wish(str(TEACHER), 4, "dsd-anchored")
    config, _ = choose(wish, ["engine.precision=fp32"], of_machine(room * 45_321), REGISTRY)
    engine = config.phases[0].components().engine
    assert f"{engine.name} {engine.options.model_dump().get('zero_stage')}" == expected


def test_no_engine_that_takes_less() -> None:
    """One process on a CPU; or an engine that somebody has named."""
    wish = Wish(str(TEACHER), 4, "dsd-anchored")
    for options in (["engine.device=cpu"], ["engine.type=torch"]):
        with pytest.raises(DistillkitError, match=r"^the networks alone take 1\.1 MB, and cpu has 453 kB; "):
            choose(wish, options, of_machine(10 * 45_321), REGISTRY)


@pytest.mark.parametrize("answer", [None, ["precision"]])
def test_engines_that_save_no_memory(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(TorchEngine, "memory_saving", lambda device_type: answer)
    with pytest.raises(DistillkitError) as caught:
        choose(Wish(str(TEACHER), 4, "dsdi"), (), of_machine(1000), REGISTRY)
    given = "None" if answer is None else "'precision'"
    assert str(caught.value) == (
        f"distillkit {__version__}, engine 'torch': memory_saving() gave {given}; expected tables of options"
    )


def test_engine_is_asked_for_its_memory_once() -> None:
    asked: list[Engine] = []

    def memory(engine: Engine) -> int:
        asked.append(engine)
        return 24 * GB

    choose(Wish(str(TEACHER), 4, "dsdi"), ["engine.device=cpu"], memory)
    assert [engine.name for engine in asked] == ["torch"]


# --- text-conditional models -----------------------------------------------------------------------------------------


def of_text(folder: Path, *overrides: str) -> Inventory:
    return choose(Wish(str(folder), 4, "dsdi", prompts=folder / "prompts.txt"), overrides, of_machine(24 * GB))[1]


@pytest.fixture(scope="module", params=[sd3, flux])
def text_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("text")
    request.param(folder)
    config = folder / "transformer/config.json"
    # Positions for 256 pixels.
    config.write_text(config.read_text(encoding="utf-8").replace('"pos_embed_max_size": 8', '"pos_embed_max_size": 64'))
    (folder / "prompts.txt").write_text("a cat", encoding="utf-8")
    return folder


def test_activations_are_of_the_pictures_size(text_model: Path) -> None:
    """The autoencoder halves pictures; a network whose config says no size has its pipeline's own."""
    assert of_text(text_model).size == (8 * 8 if (text_model / "text_encoder_3").is_dir() else 128 * 128)
    sizes = {size: of_text(text_model, f"model.size={size}").size for size in (64, 256, "[64, 128]")}
    assert sizes == {64: 32 * 32, 256: 128 * 128, "[64, 128]": 32 * 64}


def test_pictures_of_other_sizes_have_other_batches() -> None:
    batches = [
        fitted(Inventory("x", 860_000_000, 84_000_000, (pixels // 8) ** 2, 7.5), 40 * GB)["source"]["batch"]
        for pixels in (256, 512, 1024)
    ]
    assert len({*batches}) == 3


def test_text_encoders_are_counted_while_they_are_there(text_model: Path) -> None:
    """As large as their files; beside the network on a CPU."""
    inventory = of_text(text_model)
    files = sum(file.stat().st_size for file in text_model.glob("text_encoder*/*.safetensors"))
    assert inventory.encoders == files > 0
    components = chosen("dsdi", 4)
    components.engine.setup()
    beside = 4 * (inventory.parameters + inventory.frozen) if components.engine.device.type == "cpu" else 0
    assert encoding(components, inventory) == files + beside
    with pytest.raises(DistillkitError) as caught:
        fitted(replace(CELEBA, encoders=19 * GB), 12 * GB)
    assert re.match(r"to encode the prompts takes \d+(\.\d)? GB, before the first update, and ", str(caught.value))


def test_a_network_that_fits_with_an_adapter(tmp_path: Path) -> None:
    """24 bytes for each trained weight, and 4 for each of the network's under an adapter."""
    scheduler = DDPMScheduler(clip_sample=False)
    DDPMPipeline(pixel_unet(block_out_channels=(64, 64)), scheduler).save_pretrained(tmp_path)
    student = StudentTable(adapter="lora")
    found = DiffusersModel(DiffusersModel.Options(path=tmp_path)).inventory(student)
    assert found is not None
    needed = 24 * found.adapter + 4 * found.parameters
    wish, device = Wish(str(tmp_path), 4, "dsd-anchored"), "engine.device=cpu"
    with pytest.raises(DistillkitError) as caught:
        choose(wish, [device], of_machine(needed), REGISTRY)
    assert str(caught.value).startswith(
        f"the networks alone take {readable_bytes(24 * found.parameters)}, and cpu has {readable_bytes(needed)}; train "
        f"an adapter, with which they take {readable_bytes(needed)} (--set student.adapter=lora), choose a method that "
    )
    choose(wish, [device, "student.adapter=lora"], of_machine(needed), REGISTRY)
    for words, room in (([device], needed - 1), ([device, "student.adapter=lora"], needed - 1)):
        with pytest.raises(DistillkitError, match=r"; choose a method that"):
            choose(wish, words, of_machine(room), REGISTRY)


def test_three_networks_that_do_not_fit_are_one_with_loras(tmp_path: Path) -> None:
    """40 bytes for each trained weight: AdamW's and an average for the student, AdamW's for the critic, the teacher's
    copy. With adapters, that of theirs, and 4 for each weight of the network."""
    scheduler = DDPMScheduler(clip_sample=False)
    DDPMPipeline(pixel_unet(block_out_channels=(64, 64)), scheduler).save_pretrained(tmp_path)
    wish, device = Wish(str(tmp_path), 4, "any-step", sharpen="dmd"), "engine.device=cpu"
    small = DiffusersModel(DiffusersModel.Options(path=tmp_path)).inventory(StudentTable(adapter="lora"))
    assert small is not None
    whole, one = 40 * small.parameters, 4 * small.parameters + 40 * small.adapter
    for room, kind in ((whole, None), (whole - 1, "lora"), (one, "lora")):
        config, inventory = choose(wish, [device, "phase[1].run.updates=7"], of_machine(room), REGISTRY)
        students = [phase.student.model_dump() if phase.student else {} for phase in config.phases]
        assert [student.get("adapter") for student in students] == [kind, kind]
        assert [phase.run.method for phase in config.phases] == ["any-step", "dmd"]
        assert (config.phases[0].start, config.phases[1].start) == (None, PREVIOUS)
        assert config.phases[1].run.updates == 7
        components = [phase.components() for phase in config.phases]
        rates = [components[1].optimizer, components[1].critic.options.optimizer]  # type: ignore[union-attr]
        scale = (1_220_000 / (inventory.adapter or inventory.parameters)) ** 0.5
        assert [rate.learning_rate for rate in rates] == pytest.approx([2e-5 * scale, 1e-3 * scale], rel=0.05)
        for phase in components:
            phase.engine.setup()
        lines = describe(components, inventory, room, Path("run"), Path("run/config.toml"))
        assert len([line for line in lines if line.startswith("then      dmd: 7 updates")]) == 1
        said = [line for line in lines if line.startswith("student")]
        assert said == [
            "student   lora, rank 16: student and critic are adapters on one copy of the weights; all weights trained, "
            f"they take {readable_bytes(whole)}, which does not fit"
        ] * (kind == "lora")
        needs = one if kind else whole
        assert next(line for line in lines if line.startswith("memory")).startswith(
            f"memory    {readable_bytes(needs)} of"
        )
    with pytest.raises(DistillkitError, match=r"^the networks alone take .* choose a method that"):
        choose(wish, [device], of_machine(one - 1), REGISTRY)
    with pytest.raises(DistillkitError, match=r"^--sharpen: goes on with students that take the step size, and 'dsdi'"):
        choose(replace(wish, method="dsdi"), [device], of_machine(whole), REGISTRY)
