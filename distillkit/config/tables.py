"""Validates the tables of a config: the core's own, and those of components. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError

from distillkit.component import Component, StrictModel
from distillkit.config.explain import explain, toml_key
from distillkit.errors import Mistake
from distillkit.interfaces import EmaTable, OptimizerTable, Sampler, StudentTable
from distillkit.noise.grids import GridTable
from distillkit.registry import KINDS, PartError, Registry, UnknownNameError, checked


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise PydanticCustomError("folder_name", "not a folder's name")
    return name


def _each_once(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(given))


Steps = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_each_once)]
"""Numbers of sampling steps; one given twice counts once."""
Scale = Annotated[float, Field(ge=0)]
Scales = Annotated[tuple[Scale, ...], Field(min_length=1), AfterValidator(_each_once)]


class RunTable(StrictModel):
    """`[run]`: the run as a whole.

    Attributes:
        name: the run's name, and its folder's under `runs/`. Default: the config file's name.
        updates: P, parameter updates in all.
        seed: everything random follows from it.
        method: what to call the method in model cards; the preset's name by default, or the name it gives.
        log_every: updates between points of the tracker's curves (the journal has every update).
        checkpoint_every: updates between checkpoints; 0: only by `checkpoint_minutes`, and at the end.
        checkpoint_minutes: minutes of training and scoring between checkpoints; 0: none by the clock.
        keep: how many checkpoints to keep.
        on_divergence: what happens when the loss, the gradient or x̂ is no longer finite or passes a limit. "stop":
            the run ends with an error; "rollback": it goes back to its newest checkpoint (one is made before the
            first update) and continues at half the learning rate, up to 5 times; "skip": an update that is not finite
            is skipped, up to 50 in a row, and passing a limit ends the run. In all cases, an update that is not finite
            changes no weight. The same holds for a critic's loss and gradient.
        loss_limit: the loss, and a critic's, may be this many times the largest of the run's first 20 updates.
        x0_limit: the same for the root mean square of x̂; values below 1 count as 1.
    """

    name: Annotated[str, AfterValidator(_folder_name)]
    updates: int = Field(ge=1)
    seed: int = Field(0, ge=0)
    method: str = "custom"
    log_every: int = Field(10, ge=1)
    checkpoint_every: int = Field(0, ge=0)
    checkpoint_minutes: float = Field(10.0, ge=0)
    keep: int = Field(2, ge=1)
    on_divergence: Literal["stop", "rollback", "skip"] = "stop"
    loss_limit: float = Field(1e4, gt=1)
    x0_limit: float = Field(4.0, gt=1)


class EvaluationTable(StrictModel):
    """`[evaluation]`: what is scored, and how.

    Attributes:
        steps: numbers of sampling steps at which teacher and student are scored.
        teacher: whether the undistilled teacher is scored and sampled too. Turn it off if another run has scored it.
        teacher_steps: further numbers at which the teacher alone is scored.
        teacher_solvers: how the teacher is sampled for its scores; the best counts: "ddim" (the run's grid), or a
            scheduler of diffusers' that the model has ("dpmsolver++-karras", "dpmsolver++", "unipc-karras",
            "unipc"; see docs/concepts.md). Left out: DDIM and the first two that the model has.
        samples: pictures per score.
        batch: pictures per network call.
        seed: of the noise; picture i starts from the noise (seed, i) in every model and every run.
        guidance: guidance scale s (1: none).
        teacher_guidance: that of the undistilled teacher, or several, each of which is scored with every solver; the
            best counts. Left out: the same.
        sampler: how the student is sampled, here and by the exported pipeline: "ddim"; "consistency" jumps to clean
            data, adds noise of the next time and jumps again.
        reference: the real pictures to compare with: "bundled" (comes with the features), "data" (the run's
            `[data]`), or "auto" (the first of the two that exists).
        every: updates between evaluations of the student during the run; 0: only at the end.
        every_samples: pictures per score in those.
        best: a score by name, as in "fd-fashion/steps-4" or "steps-4": of the weights that were evaluated during the
            run and at its end (`every`, `every_samples`), those that had the best one are scored and exported.
            Left out: the last ones.
        export_steps: the number of steps that the exported pipeline is set up for; left out: the smallest of `steps`
            that the student was taught.
        grid: pictures per row of the sample sheets.
    """

    steps: Annotated[Steps, Field(min_length=1)] = (2, 4, 8)
    teacher: bool = True
    teacher_steps: Steps = ()
    teacher_solvers: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)] | None = None
    samples: int = Field(1000, ge=2)
    batch: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)
    guidance: float = Field(1.0, ge=0)
    teacher_guidance: Scale | Scales | None = None
    sampler: Sampler = "ddim"
    reference: Literal["auto", "bundled", "data"] = "auto"
    every: int = Field(0, ge=0)
    every_samples: int = Field(200, ge=2)
    best: str | None = None
    export_steps: int | None = Field(None, ge=1)
    grid: int = Field(10, ge=1)


CORE: dict[str, type[BaseModel]] = {
    "run": RunTable,
    "grid": GridTable,
    "optimizer": OptimizerTable,
    "ema": EmaTable,
    "student": StudentTable,
    "evaluation": EvaluationTable,
}

OPTIONAL = ("ema", "student")
"""The core's tables that switch something on. The others have a default for every key."""

REQUIRED = ("model", "schedule", "source", "loss")

REMOVABLE = ("teacher", "target", "critic")
"""The kinds whose table is taken out by `type = "none"`: what a preset has and a config does not want."""


@dataclass(frozen=True)
class Choice:
    """A component that a config names: its class, and the options in its table."""

    component: type[Component]
    options: Component.Options

    def make(self) -> Component:
        """Make the component, without setting it up."""
        return self.component(self.options)


@dataclass
class Reader:
    """Validates tables, and collects the mistakes and the resolved tables.

    Attributes:
        registry: where components are looked up.
        lacks_preset: whether the config names a preset that does not exist. Missing tables are then not reported.
        mistakes: the mistakes so far.
        resolved: the tables, with every default written out.
    """

    registry: Registry
    lacks_preset: bool = False
    mistakes: list[Mistake] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)

    def core_table(self, name: str, table: Any) -> BaseModel | None:
        """Validate one of the core's tables. Returns None if it has mistakes, or is optional and missing."""
        if name in OPTIONAL and table is None:
            return None
        made = self._validate(CORE[name], {} if table is None else table, name, f"[{name}]")
        if made is not None:
            self.resolved[name] = _dump(made)
        return made

    def choices(self, kind: str, table: Any) -> list[Choice]:
        """Validate the table, or the list of tables, of a kind. Entries with mistakes are left out."""
        many = KINDS[kind].many
        form = f"[[{kind}]]" if many else f"[{kind}]"
        if table is None or table == [] or (kind in REMOVABLE and table == {"type": "none"}):
            if kind in REQUIRED and not self.lacks_preset:
                self._note(kind, f"is required: add a {form} table, or a preset that has one")
            return []
        if many != isinstance(table, list):
            self._note(kind, f"must be a list of tables: write {form}" if many else f"must be one table: write {form}")
            return []
        entries = [(toml_key(kind, (i,)), entry) for i, entry in enumerate(table)] if many else [(kind, table)]
        choices = [choice for key, entry in entries if (choice := self._choice(kind, key, entry)) is not None]
        resolved = [
            {"type": self.registry.name_of(kind, choice.component), **_dump(choice.options)} for choice in choices
        ]
        if resolved:
            self.resolved[kind] = resolved if many else resolved[0]
        return choices

    def _choice(self, kind: str, key: str, table: Any) -> Choice | None:
        if not isinstance(table, Mapping):
            self._note(key, f"must be a table with a `type` (got {table!r})")
            return None
        rest = dict(table)
        name = rest.pop("type", None)
        if not isinstance(name, str):
            known = ", ".join(self.registry.names(kind))
            self._note(f"{key}.type", f"is required, a string; known: {known}")
            return None
        try:
            component = self.registry.find(kind, name)
        except UnknownNameError as error:
            self._note(f"{key}.type", str(error))
            return None
        options = self._validate(component.Options, rest, key, f"'{name}'")
        if options is None:
            return None
        choice = Choice(component, cast(Component.Options, options))
        try:
            own = _own_mistakes(choice.make())
        except PartError as error:
            own = [Mistake("", str(error))]
        self.mistakes += [Mistake(f"{key}.{m.key}" if m.key else key, m.message) for m in own]
        return choice

    def _validate(self, model: type[BaseModel], table: Any, key: str, owner: str) -> BaseModel | None:
        """Validate a table strictly: TOML has types, so "1" is not a number, and 1 is not a boolean.

        The table goes through JSON, because pydantic's strict mode accepts a list for a tuple and a string for a path
        only there.
        """
        try:
            return model.model_validate_json(json.dumps(table, default=str), strict=True)
        except ValidationError as error:
            self.mistakes += explain(error, key, table, model, owner)
            return None

    def _note(self, key: str, message: str) -> None:
        self.mistakes.append(Mistake(key, message))


def _own_mistakes(component: Component) -> list[Mistake]:
    """What the component itself finds wrong with its options."""
    found, expected = component.check(), "the Mistakes in its options"
    made = [*checked(component, "check()", found, isinstance(found, Iterable), expected)]
    return [checked(component, "check()", one, isinstance(one, Mistake), expected) for one in made]


def _dump(model: BaseModel) -> dict[str, Any]:
    """A model as a TOML table. Fields that are None are left out."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
