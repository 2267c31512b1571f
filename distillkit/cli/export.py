"""`distillkit export`: writes a run's pipeline for another number of steps."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.options import parse_steps
from distillkit.errors import DistillkitError
from distillkit.exporting import pipeline_folder, prepare, tables_of_run
from distillkit.files import replacing, writing


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
    model, about = prepare(folder, steps, guidance)
    with writing(output), replacing(output) as temporary:
        model.export(model.network, temporary, about)
    at = "" if guidance is None else f" at guidance {guidance:g}"
    words = " or ".join(", ".join(map(str, steps)).rsplit(", ", 1))
    click.echo(f"{output}: a pipeline for {words} {'step' if steps == [1] else 'steps'}{at}")
    taught = max(tables["source"].get("levels") or steps)
    if beyond := [count for count in steps if count > taught]:
        click.echo(
            f"note: the student was taught at most {taught} steps (source.levels), and not "
            f"{' or '.join(map(str, beyond))}: compare the samples with those in {taught} steps"
        )
