"""`student.guidance = "baked"` at a range of scales: the student is told the scale, and is exported for one of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import DiffusionPipeline
from distillkit_diffusers import step_input
from helpers.digits import MODEL, PLAIN, SCORED, distil, read_checkpoint, settings
from helpers.pipelines import distil as distil_folder
from helpers.pipelines import load, own, stock
from helpers.text_pipelines import PROMPTS, sd3, stable_diffusion
from torch import Tensor, nn

import distillkit
from distillkit.cli.group import cli
from distillkit.config import read_config
from distillkit.errors import ConfigError
from distillkit.interfaces import GuidanceInput
from distillkit.noise import GUIDANCE
from distillkit.reading import way
from distillkit.training.assemble import Parts, prepare
from distillkit.training.assemble import load as load_parts
from distillkit.training.loop import Position, updates
from distillkit.training.run import run

RANGE = ('student.guidance="baked"', "source.guidance=[1.0, 3.0]")
FAST = ("optimizer.learning_rate=1e-2", "optimizer.final_learning_rate=1e-2", "ema.decay=0.5")
FEW = ("schedule.start=4", "run.updates=2", "source.batch=4")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trajectories are kept in the working directory."""
    monkeypatch.chdir(tmp_path)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)


def calls(parts: Parts, stage: int = 0) -> list[tuple[str, int, list[float]]]:
    """Who evaluates a network in the first update of a stage, with how many samples, and which scales it is told."""
    seen: list[tuple[str, int, list[float]]] = []
    student, forward = parts.student.network, parts.components.model.forward

    def listen(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        seen.append(("student" if network is student else "copy", len(z), inputs[GUIDANCE].tolist()))
        return forward(network, z, t, inputs)

    position = Position()
    holders = [parts.student, *(vars(parts.components.teacher).get(name) for name in ("_frozen",))]
    for holder in filter(None, holders):
        holder.forward_network = listen
    for _ in updates(parts, position, lambda _: None):
        if position.stage >= stage:
            break
        seen.clear()
    return seen


def test_the_student_is_told_and_the_teacher_is_guided() -> None:
    """From PD's second stage on, the teacher is a student: it is told as well, and not guided."""
    words = ("schedule.start=4", "run.updates=4", "source.batch=4", *RANGE)
    for stage, size in ((0, 8), (1, 4)):
        parts = load_parts(settings(Path(), "pd", *words).components())
        assert parts.components.model.spec.guidance_input == GuidanceInput(1.0, 3.0, new=True)
        prepare(parts)
        student, *teacher = calls(parts, stage)
        assert student[:2] == ("student", 4)
        assert len({*student[2]}) == 4
        assert all(1 <= scale <= 3 for scale in student[2])
        assert teacher == [("copy", size, student[2] * (size // 4))] * 2


def test_trajectories_are_guided_at_the_scales_that_the_student_is_told() -> None:
    """Each landing is where the teacher gets with classifier-free guidance at that scale."""
    words = ("schedule.steps=4", "run.updates=1", "source.trajectories=4", "source.shard=4", "source.batch=8", *RANGE)
    parts = load_parts(settings(Path(), "luhman-cached", *words).components())
    for work in prepare(parts):
        work()
    source = parts.components.source
    source.start_stage(parts.plan[0], parts.student.path)
    jumps = source.draw(torch.Generator().manual_seed(0))
    told = jumps.condition.inputs[GUIDANCE]
    assert len({*told.tolist()}) > 1
    plain = load(Path(settings(Path(), "pd", *FEW).tables["model"]["path"]))
    plain.spec = replace(plain.spec, path=parts.student.path)
    for i, scale in enumerate(told.tolist()[:2]):
        label = int(jumps.condition.inputs["class_labels"][i])
        images = own(plain, jumps.z[i : i + 1] / parts.student.path.initial_scale, 4, [label], scale)
        assert jumps.landing is not None
        torch.testing.assert_close(images, (jumps.landing[i : i + 1] / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


STOCK: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "sd": (stable_diffusion, {"prompts": PROMPTS[:2]}, {"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0}),
    "sd3": (sd3, {"prompts": PROMPTS[:2]}, {"prompt": list(PROMPTS[:2]), "guidance_scale": 1.0}),
}


@pytest.mark.parametrize(("name", "adapter"), [("sd", False), ("sd", True), ("sd3", False)], ids=str)
def test_exports_are_stock_pipelines_for_one_scale(name: str, adapter: bool, tmp_path: Path) -> None:
    """Called without guidance, as the card says; opened here, the folder serves the other scales too."""
    make, options, arguments = STOCK[name]
    make(tmp_path / "teacher")
    lora = ("student.adapter=lora", "student.rank=2") if adapter else ()
    words = (*FAST, *lora, *RANGE, "evaluation.guidance=2", "teacher.renew=never")
    found, made = distil_folder(tmp_path, tmp_path / "teacher", "tsd", *words, model=f"prompts = {list(PROMPTS[:2])}")
    opened, folder = load(found.folder / "pipeline", **options), found.folder / "pipeline"
    assert opened.spec.guidance_input == GuidanceInput(1.0, 3.0, new=False)
    assert not opened.step_input
    made.model.spec = replace(made.model.spec, path=opened.spec.path)
    noise = torch.randn(2, *opened.spec.sample_shape, generator=torch.Generator().manual_seed(1))
    with made.engine.averaged():
        expected = {scale: own(made.model, noise, 2, [0, 1], scale) for scale in (2.0, 3.0)}  # type: ignore[arg-type]
    assert (expected[2.0] - expected[3.0]).abs().max() > 1e-4
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-5)
    close(stock(DiffusionPipeline.from_pretrained(folder), noise, num_inference_steps=2, **arguments), expected[2.0])
    for scale, images in expected.items():
        close(own(opened, noise, 2, [0, 1], scale), images)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "- Guidance: inside the network, at scale 2: call the pipeline without guidance, as below" in card
    assert "    guidance_scale=1.0,\n" in card
    if not adapter:
        made_at = call("export", found.folder, "--steps", 2, "--guidance", 3)
        assert (made_at.exit_code, made_at.output) == (
            0,
            f"{found.folder / 'steps-002-guidance-3'}: a pipeline for 2 steps at guidance 3\n",
        )
        pipe = DiffusionPipeline.from_pretrained(found.folder / "steps-002-guidance-3")
        images = stock(pipe, noise, num_inference_steps=2, **arguments)
        close(images, expected[3.0])
        # Also without its run, where no prompts are known.
        for place in (found.folder, shutil.copytree(folder, tmp_path / "moved")):
            loaded = distillkit.load_pipeline(place, 2, 3.0)
            assert torch.equal(stock(loaded, noise, num_inference_steps=2, **arguments), images)
        for outside in (0.5, 4):
            refused = call("export", found.folder, "--steps", 2, "--guidance", outside)
            assert refused.exit_code == 2
            assert f"the network takes the scales from 1 to 3 as an input (got {outside})" in refused.output


def test_class_conditional_exports_carry_no_guidance(tmp_path: Path) -> None:
    """In model_index.json; at one scale and at several."""
    for name, words in {"one": (*RANGE[:1], "source.guidance=2"), "range": (*RANGE, "evaluation.guidance=2")}.items():
        found = distil(tmp_path / name, "pd", *FEW, *words, "model.step_input=true", "teacher.renew=never")
        index = json.loads((found.folder / "pipeline/model_index.json").read_text(encoding="utf-8"))
        assert index["guidance_scale"] == 1
        card = (found.folder / "pipeline/README.md").read_text(encoding="utf-8")
        assert "- Guidance: inside the network, at scale 2: call" in card
    opened = load(found.folder / "pipeline")
    assert opened.step_input
    assert step_input.added(opened.network) == ["step_size", "guidance"]
    whole = read_checkpoint(found.folder / "checkpoints/update-000002")
    assert whole["engine/network.guidance_embedding.outs.0.weight"].abs().max() > 0
    moved = shutil.copytree(found.folder / "pipeline", tmp_path / "moved")
    # Without its run, the folder says which scale it was folded for.
    assert load(moved).spec.guidance == 2.0
    weights = [distillkit.load_pipeline(folder, 2).unet.state_dict() for folder in (found.folder, moved)]
    assert all(torch.equal(one, other) for one, other in zip(*(w.values() for w in weights), strict=True))
    outside = call("sample", found.folder, "--guidance", 4, "--count", 1, "--output", tmp_path / "grid.png")
    assert outside.exit_code == 2
    assert "the network takes the scales from 1 to 3 as an input (got 4)" in outside.output


def test_the_best_scale_of_the_teacher_counts(tmp_path: Path) -> None:
    """At each number of steps, of all solvers and scales; its rows, tables and last lines say which."""
    words = (*FEW, *RANGE, "evaluation.guidance=2", "evaluation.steps=[1, 2]", "evaluation.samples=8")
    more = ('evaluation.teacher_solvers=["ddim", "unipc"]', "evaluation.teacher_guidance=[1.0, 3.0]")
    found = distil(tmp_path, "pd", *words, *more, tables=MODEL + PLAIN + SCORED)
    rows = json.loads((found.folder / "scores.json").read_text(encoding="utf-8"))
    teacher = [row for row in rows if row["model"] == "teacher"]
    ways = [(row["steps"], row["solver"], row["guidance"]) for row in teacher]
    assert ways == [(n, solver, scale) for n in (1, 2) for solver in ("ddim", "unipc") for scale in (1, 3)]
    for steps in (1, 2):
        here = [row for row in teacher if row["steps"] == steps]
        [best] = [row["value"] for row in here if row["best"]]
        assert best == min(row["value"] for row in here)
    assert all(one["value"] != three["value"] for one, three in zip(teacher[::2], teacher[1::2], strict=True))
    for row in teacher:
        assert f"guidance {row['guidance']:g};" in row["protocol"]
    # Without guidance, it is the network alone: the same as in a run that bakes nothing.
    plain = distil(tmp_path / "plain", "pd", *FEW, *words[-2:], *more[:1], tables=MODEL + PLAIN + SCORED)
    alone = json.loads((plain.folder / "scores.json").read_text(encoding="utf-8"))
    values = {(row["steps"], row["solver"]): row["value"] for row in alone if row["model"] == "teacher"}
    assert values == {
        (n, solver): row["value"] for (n, solver, scale), row in zip(ways, teacher, strict=True) if scale == 1
    }
    compared = call("compare", found.folder, plain.folder)
    assert compared.exit_code == 0, compared.output
    assert [way(row) for row in teacher[:4]] == ["ddim", "ddim guided at 3", "unipc", "unipc guided at 3"]
    for row in teacher:
        assert not row["best"] or f"{way(row)} in " in " ".join(compared.output.split())


CHAIN = """
[student]
guidance = "baked"
[source]
batch = 4
guidance = {first}
[[phase]]
preset = "tsd"
run = {{ updates = 2 }}
schedule = {{ start = 4 }}
[[phase]]
preset = "pd"
run = {{ updates = 2 }}
schedule = {{ start = 4 }}
"""


def test_chains(tmp_path: Path) -> None:
    """The second phase is told the scales as well, and guides nothing again; at one scale, it would."""
    file = tmp_path / "chain.toml"
    file.write_text(MODEL + PLAIN + CHAIN.format(first="[1.0, 3.0]"), encoding="utf-8")
    run(read_config(file), tmp_path / "run")
    opened = load(tmp_path / "run/pipeline")
    assert opened.spec.guidance_input == GuidanceInput(1.0, 3.0, new=False)
    file.write_text(MODEL + PLAIN + CHAIN.format(first="2.0"), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        run(read_config(file), tmp_path / "one")
    assert [str(mistake) for mistake in raised.value.mistakes] == [
        "phase[1].student.guidance: guides a network that has guidance inside already, from an earlier phase; leave it "
        "out here, and source.guidance"
    ]
