"""`distillkit export`: writes a run's pipeline for another number of steps."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.pipeline import load_model, pipeline_folder, tables_of_run
from distillkit.errors import DistillkitError
from distillkit.files import replacing, writing
from distillkit.interfaces import Export
from distillkit.training.folder import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--steps", type=click.IntRange(1), required=True, help="Sampling steps.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="A new folder. [default: RUN/steps-N]")
def command(run: Path, steps: int, output: Path | None) -> None:
    """Write the pipeline of RUN, the folder of a finished run, for another number of sampling steps.

    Its scheduler has the times of that many steps. A network that takes the step size becomes diffusers' own network
    for them.
    """
    folder = pipeline_folder(run)
    tables = tables_of_run(folder)
    if not tables:
        raise DistillkitError(f"{run}: is not the folder of a finished run; expected config.toml and pipeline/ in it")
    output = output or run / f"steps-{steps:03d}"
    if output.exists():
        raise DistillkitError(f"{output}: already exists; nothing was overwritten. Give a new folder with --output")
    model, evaluation = load_model(folder), tables.get("evaluation", {})
    # As a trailing grid of too many steps has none.
    model.spec.path.grid(steps)
    about = Export(
        path=model.spec.path,
        steps=steps,
        served=evaluation["steps"],
        guidance=evaluation["guidance"],
        method=tables["run"]["method"],
        teacher=str(tables["model"].get("path", tables["model"]["type"])),
        scores=RunFolder(folder.parent).read_scores(),
        settings=tables,
        sampler=evaluation["sampler"],
    )
    with writing(output), replacing(output) as temporary:
        model.export(model.network, temporary, about)
    click.echo(f"{output}: a pipeline for {steps} {'step' if steps == 1 else 'steps'}")
