"""How a config is put together: presets, `--set`, defaults, and the resolved config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tomli_w
from conftest import ConfigFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distillkit.config import Components, Config, make_plan, read_config
from distillkit.config.explain import explain
from distillkit.registry import load_registry

DSDI = 'preset = "dsdi"\n[run]\nupdates = 7\n'


def only(config: Config) -> Components:
    """The settings and components of a config of one phase."""
    [phase] = config.phases
    return phase.components()


def test_defaults(config: ConfigFile) -> None:
    """What nobody named: the run is called as its file, the method as its preset."""
    settings = only(read_config(config.write(DSDI)))
    assert (settings.run.name, settings.run.method) == ("mine", "dsdi")
    assert (settings.engine.name, settings.data, settings.metrics) == ("torch", None, [])


def test_file_lies_over_the_preset_key_by_key(config: ConfigFile) -> None:
    tables = read_config(config.write(DSDI + "[schedule]\nstart = 16\n[optimizer]\nclip = 3\n")).tables
    assert tables["schedule"] == {"type": "halving", "start": 16, "stop": 2, "cycles": 1}
    assert tables["optimizer"]["clip"] == 3
    assert tables["optimizer"]["betas"] == [0.9, 0.98]


def test_another_type_replaces_the_preset_s_table_whole(config: ConfigFile) -> None:
    """`start`, which the preset gives to its own schedule, is gone."""
    tables = read_config(config.write(DSDI + '[schedule]\ntype = "constant"\nsteps = 8\n')).tables
    assert tables["schedule"] == {"type": "constant", "steps": 8}


def test_another_type_keeps_what_the_preset_says_of_any(config: ConfigFile) -> None:
    """Of models; as in a file, but what the file says of the type that it names is gone."""
    text = 'preset = "any-step"\n[run]\nupdates = 7\n[model]\ntype = "diffusers"\npath = "nowhere"\n'
    found = read_config(config.write(text, below=""), ["model.type=fashion"]).tables["model"]
    assert {key: found[key] for key in ("type", "step_input")} == {"type": "fashion", "step_input": True}
    assert "path" not in found


def test_lists_replace_the_preset_s_list_whole(config: ConfigFile) -> None:
    settings = only(read_config(config.write(DSDI + '[[loss]]\ntype = "v-mse"\n')))
    assert [loss.name for loss in settings.losses] == ["v-mse"]


@pytest.mark.parametrize(
    ("assignments", "table", "expected"),
    [
        (["run.updates=9"], "run", {"updates": 9}),
        (["run.name=small-one"], "run", {"name": "small-one"}),
        (["optimizer.betas=[0.5, 0.6]"], "optimizer", {"betas": [0.5, 0.6]}),
        # A table that nobody wrote, and one that replaces a written one.
        (["ema.decay=0.5", "ema.warmup=true"], "ema", {"decay": 0.5, "warmup": True}),
        (['schedule={type="constant", steps=4}'], "schedule", {"type": "constant", "steps": 4}),
        # Another type empties the table, and goes first wherever it stands.
        (["schedule.steps=4", "schedule.type=constant"], "schedule", {"type": "constant", "steps": 4}),
        (["preset=dsdn"], "run", {"method": "dsdn"}),
    ],
)
def test_set(config: ConfigFile, assignments: list[str], table: str, expected: dict[str, Any]) -> None:
    found = read_config(config.write(DSDI), assignments).tables[table]
    assert {key: found[key] for key in expected} == expected


def test_steps_given_twice_count_once(config: ConfigFile) -> None:
    given = ["evaluation.steps=[4, 2, 4]", "evaluation.teacher_steps=[16, 16]"]
    evaluation = only(read_config(config.write(DSDI), given)).evaluation
    assert (evaluation.steps, evaluation.teacher_steps) == ((4, 2), (16,))


def test_set_reaches_into_the_preset_s_lists(config: ConfigFile) -> None:
    settings = only(read_config(config.write(DSDI), ["loss[0].weight=2"]))
    assert settings.losses[0].options.weight == 2
    assert settings.tables["loss"][0]["weighting"] == "truncated-snr"


def test_preset_is_not_changed_by_a_config(config: ConfigFile) -> None:
    registry = load_registry()
    before = repr(registry.preset("dsdi"))
    read_config(config.write(DSDI), ["loss[0].weight=2", "schedule.start=4"], lambda: registry)
    assert repr(registry.preset("dsdi")) == before


@pytest.mark.parametrize("preset", sorted(load_registry().presets))
def test_resolved_config_is_the_same_config(config: ConfigFile, tmp_path: Path, preset: str) -> None:
    text = f'preset = "{preset}"\n[run]\nupdates = 7\n[data]\ntype = "digits"\n[features]\ntype = "pixels"\n'
    first = read_config(config.write(text + '[[metric]]\ntype = "fid"\n[[metric]]\ntype = "kid"\n'))
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(tomli_w.dumps(first.tables), encoding="utf-8")
    second = read_config(resolved)
    assert second.tables == first.tables
    assert make_plan(only(second)) == make_plan(only(first))


@pytest.mark.parametrize(
    ("assignments", "stages"),
    [
        # Whole trajectories: N/2 updates each; what is left over goes to the last stage.
        (["schedule.start=8", "run.updates=22"], [(8, 8, 16), (4, 6, 12), (2, 8, 16)]),
        # Each update of two batches: as many evaluations again.
        (["schedule.start=4", "run.updates=4", "optimizer.accumulate=2"], [(4, 2, 8), (2, 2, 8)]),
        (["schedule.type=constant", "schedule.steps=6", "run.updates=7"], [(6, 7, 14)]),
        # Luhman & Luhman: one jump, N evaluations of the target.
        (["preset=luhman", "schedule.steps=4", "run.updates=3"], [(4, 3, 15)]),
        (["preset=tsd", "schedule.start=4", "run.updates=4"], [(4, 2, 6), (2, 2, 6)]),
    ],
)
def test_plan(config: ConfigFile, assignments: list[str], stages: list[tuple[int, int, int]]) -> None:
    """(N, updates, evaluations), worked out by hand."""
    plan = make_plan(only(read_config(config.write(DSDI), assignments)))
    assert [(part.steps, part.updates, part.updates * part.evaluations) for part in plan] == stages


class Point(BaseModel):
    """A table inside a component's options."""

    model_config = ConfigDict(extra="forbid")

    x: int
    label: Literal["a"] | None = None


class Line(BaseModel):
    """Options as a third party may write them: tables in tables, lists of them, dictionaries, choices of them."""

    model_config = ConfigDict(extra="forbid")

    point: Point | None = None
    points: list[Point] = []
    named: dict[str, Point] = {}
    width: dict[str, Annotated[float, Field(gt=0)]] = {}
    either: Point | str = ""
    colour: str = Field("", alias="class")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"point": {"x": "1"}}, ["line.point.x: must be a whole number (got '1')"]),
        ({"point": {}}, ["line.point.x: is required"]),
        ({"point": {"x": 1, "y": 2}}, ["line.point.y: unknown option of line.point; it has: x, label"]),
        ({"points": [{"x": 1}, {"x": 1, "xx": 2}]}, [
            "line.points[1].xx: unknown option of line.points[1]; it has: x, label — did you mean 'x'?"
        ]),
        ({"named": {"Point": {"x": None}}}, ["line.named.Point.x: must be a whole number (got None)"]),
        ({"named": {"a": {"x": 1, "y": 1}}}, ["line.named.a.y: unknown option of line.named.a; it has: x, label"]),
        ({"width": {"top": -1}}, ["line.width.top: must be greater than 0 (got -1)"]),
        ({"either": 3}, ["line.either: must be a table, or a string (got 3)"]),
        ({"either": {"x": "1"}}, ["line.either.x: must be a whole number (got '1')"]),
        ({"either": {"x": 1, "y": 1}}, ["line.either.y: unknown option of line.either; it has: x, label"]),
        ({"clas": ""}, [
            "line.clas: unknown option of 'line'; it has: point, points, named, width, either, class"
            " — did you mean 'class'?"
        ]),
    ],
)  # fmt: skip
def test_mistakes_inside_nested_options(table: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Line.model_validate(table, strict=True)
    assert [str(mistake) for mistake in explain(caught.value, "line", table, Line, "'line'")] == expected
