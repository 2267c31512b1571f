"""`distillkit distill`: distils a pipeline without a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import tomli_w

from distillkit.cli.measure import device_memory
from distillkit.cli.options import set_option
from distillkit.cli.summary import describe
from distillkit.config import unreached
from distillkit.config.choose import choose
from distillkit.config.wish import Wish
from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.exporting import pipeline_folder
from distillkit.registry import load_registry
from distillkit.training.run import run

METHOD = "best"
"""The preset that docs/study.md recommends."""
SHARPEN = "dmd"
"""The preset of the second phase."""
FLAGS = {
    "preset": "--method",
    "run.updates": "--updates",
    "source.guidance": "--guidance",
    "evaluation.guidance": "--guidance",
    "evaluation.teacher_guidance": "--guidance",
}
"""Keys of the config that have an option of the command."""


@click.command()
@click.argument("pipeline", metavar="PATH_OR_HUB_ID")
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="Sampling steps of the student.")
@click.option("--method", default=METHOD, show_default=True, help="A preset that needs no data.")
@click.option(
    "--sharpen",
    is_flag=True,
    help="Go on with a critic, which makes few steps sharper, in a second phase. If student, teacher and critic do not "
    "fit in the memory, they are one network with LoRAs.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A text file with a prompt on each line, for a model that takes text.",
)
@click.option(
    "--guidance",
    type=click.FloatRange(0),
    help="The guidance scale of the student's samples; 1 is none. [default: the pipeline's own]",
)
@click.option("--updates", type=click.IntRange(1), help="Parameter updates. [default: depends on the method]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run's folder. [default: runs/ and the run's name]",
)
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the config to FILE, and do not run it.",
)
@set_option
def command(
    pipeline: str,
    steps: int,
    method: str,
    sharpen: bool,
    prompts: Path | None,
    guidance: float | None,
    updates: int | None,
    output: Path | None,
    write: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Distil a diffusers pipeline, from a folder or from the Hugging Face hub, without data and without a config.

    The command chooses settings for the network and the machine, shows them, and writes the config to the run's folder.
    `distillkit run` repeats the run from it. --set changes any setting.
    """
    if write is not None:
        _check_new(write)
    folder = Path(pipeline)
    model = str(pipeline_folder(folder)) if folder.is_dir() else pipeline
    try:
        wish = Wish(model, steps, method, updates, guidance, prompts, SHARPEN if sharpen else None)
        chosen, inventory = choose(wish, assignments, device_memory)
        run_folder = output or Path("runs", chosen.name)
        config = write or run_folder / "config.toml"
        phases = [phase.components() for phase in chosen.phases]
        plan = describe(phases, inventory, min(device_memory(phase.engine) for phase in phases), run_folder, config)
        if write is not None:
            click.echo("\n".join([*plan, *filter(None, map(unreached, phases))]))
            _write(chosen.tables, write)
            return

        run(chosen, run_folder, ready=lambda: click.echo("\n".join(plan)))
    except ConfigError as error:
        raise ConfigError(map(_with_flag, error.mistakes), error.source) from None


def _with_flag(mistake: Mistake) -> Mistake:
    """The mistake, with the command's option for its key."""
    registry = load_registry()
    prompts = registry.find("model", registry.default("model")).command_options.get("prompts")
    flag = "--prompts" if mistake.key == f"model.{prompts}" else FLAGS.get(mistake.key)
    return Mistake(mistake.key, f"{mistake.message} ({flag})") if flag else mistake


def _check_new(file: Path) -> None:
    """Check that a config can be written to a file, before a plan is made."""
    if file.exists() or file.is_symlink():
        raise DistillkitError(f"{file}: already exists; nothing was overwritten. Give a new file with --write")
    if not file.parent.is_dir():
        raise DistillkitError(f"{file}: there is no folder {file.parent}; make it, or give another file with --write")


def _write(tables: dict[str, Any], file: Path) -> None:
    """Write a config to a new file."""
    try:
        with file.open("x", encoding="utf-8") as config:
            config.write(tomli_w.dumps(tables))
    except OSError as error:
        raise DistillkitError(f"{file}: cannot be written ({error.strerror}); give another file with --write") from None
