"""`distillkit export`: writes a run's pipeline for another number of steps."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from distillkit.cli.options import parse_steps
from distillkit.cli.pipeline import load_model, pipeline_folder, tables_of_run
from distillkit.errors import DistillkitError
from distillkit.files import replacing, writing
from distillkit.interfaces import Export
from distillkit.training.folder import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--steps",
    callback=parse_steps,
    required=True,
    metavar="N,…",
    help="Sampling steps; several, as in 1,2,4,8, for one folder that serves each of them.",
)
@click.option("--guidance", type=click.FloatRange(0), help="Guidance scale s; 1 is none. [default: the run's]")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="A new folder. [default: RUN/steps-N-…]")
def command(run: Path, steps: list[int], guidance: float | None, output: Path | None) -> None:
    """Write the pipeline of RUN, the folder of a finished run, for other numbers of sampling steps.

    For one number, the scheduler has the times of that many steps, and a network that takes the step size becomes
    diffusers' own network for them. For several, the network must take the step size: the folder has its biases and
    its times for each of them, and code that sets them when the pipeline is called. The first is the default of
    pipelines that have one. A network that was taught several guidance scales becomes one for a single scale, which is
    called without guidance.
    """
    folder = pipeline_folder(run)
    tables = tables_of_run(folder)
    if not tables:
        raise DistillkitError(f"{run}: is not the folder of a finished run; expected config.toml and pipeline/ in it")
    scaled = "" if guidance is None else f"-guidance-{guidance:g}"
    counts = "-".join(f"{count:03d}" for count in steps)
    output = output or run / f"steps-{counts}{scaled}"
    if output.exists():
        raise DistillkitError(f"{output}: already exists; nothing was overwritten. Give a new folder with --output")
    model, evaluation = load_model(folder), tables.get("evaluation", {})
    scale = evaluation["guidance"] if guidance is None else guidance
    baked = tables["source"]["guidance"] if tables.get("student", {}).get("guidance") == "baked" else None
    if isinstance(baked, list):
        baked = None  # the network is told the scale
    if guidance is not None and baked is not None:
        raise DistillkitError(f"--guidance: the student has guidance inside, at scale {baked:g}; leave it out")
    # Raises where the network cannot be guided so.
    model.condition(
        None if model.spec.classes is None else torch.tensor([0]), 1, torch.tensor([scale]) if scale != 1 else None
    )
    if len(steps) > 1 and not model.step_input:
        raise DistillkitError(
            "--steps: the network does not take the step size, so that no folder serves several numbers of steps; "
            "give one"
        )
    for count in steps:
        # As a trailing grid of too many steps has none.
        model.spec.path.grid(count)
    about = Export(
        path=model.spec.path,
        steps=steps[0],
        served=evaluation["steps"],
        guidance=scale,
        method=tables["run"]["method"],
        teacher=str(tables["model"].get("path", tables["model"]["type"])),
        scores=RunFolder(folder.parent).read_scores(),
        settings=tables,
        sampler=evaluation["sampler"],
        baked=baked,
        several=steps if len(steps) > 1 else (),
    )
    with writing(output), replacing(output) as temporary:
        model.export(model.network, temporary, about)
    at = "" if guidance is None else f" at guidance {guidance:g}"
    words = " or ".join(", ".join(map(str, steps)).rsplit(", ", 1))
    click.echo(f"{output}: a pipeline for {words} {'step' if steps == [1] else 'steps'}{at}")
