"""`distillkit sample`: draws a grid of samples."""

from __future__ import annotations

from math import ceil, sqrt
from pathlib import Path

import click
import torch

from distillkit import distributed
from distillkit.cli.options import prompts_option, set_option
from distillkit.cli.pipeline import make_predictor, split_assignments
from distillkit.config import read_scoring
from distillkit.evaluation import Pictures, sheet, write_png
from distillkit.exporting import check_guidance, load_model, pipeline_folder, tables_of_run
from distillkit.files import check_replaceable
from distillkit.registry import load_registry


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="Sampling steps.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Pictures.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("grid.png"), show_default=True, metavar="PNG")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--guidance", type=click.FloatRange(0), help="Guidance scale s; 1 is none. [default: the run's, or the folder's]"
)
@click.option("--class-labels", metavar="0,1,…", help="Classes, repeated until there are enough. [default: all]")
@prompts_option
@click.option("--device", help="As torch names it: cpu, cuda or cuda:N. [default: a GPU, if there is one]")
@set_option
def command(
    pipeline: Path,
    steps: int,
    count: int,
    output: Path,
    seed: int,
    guidance: float | None,
    class_labels: str | None,
    prompts: Path | None,
    device: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Draw samples from PIPELINE, the folder of a diffusers pipeline or of a run, into one PNG."""
    # /dev/stdout is a link to what is there, and would itself be replaced.
    target = output.resolve()
    check_replaceable(target)
    folder = pipeline_folder(pipeline)
    of_run = tables_of_run(folder)
    check_guidance(of_run, guidance)
    of_model, others = split_assignments(assignments)
    labels = _labels(class_labels, count)
    model = load_model(folder, prompts, of_model)
    if guidance is None:
        guidance = of_run.get("evaluation", {}).get("guidance", model.spec.guidance)
    tables = {
        "evaluation": {"guidance": guidance, "seed": seed},
        "engine": load_registry().table("engine", device=device),
    }
    scoring = read_scoring(tables, str(folder), others)
    if labels is not None and (model.spec.classes is None or max(labels) >= model.spec.classes):
        has = (
            f"has the classes 0 to {model.spec.classes - 1}" if model.spec.classes else "is not conditioned on classes"
        )
        raise click.BadParameter(f"the model {has} (got {class_labels})", param_hint="--class-labels")

    predictor, scoring = make_predictor(model, model.spec.path, scoring)
    pictures = Pictures(scoring.evaluation, model, scoring.engine.device, scoring.engine.autocast)
    size = ceil(sqrt(count))
    drawn = [
        distributed.all_gather(pictures.draw(predictor, steps, indices, labels and [labels[i] for i in indices]).cpu())
        for indices in distributed.split_between_processes(_chunks(count, size))
    ]
    rows = torch.split(torch.cat(drawn)[:count], size)
    if distributed.is_main_process():
        write_png(target, sheet(rows))
    click.echo(f"{output}: {count} samples in {steps} steps")


def _chunks(count: int, size: int) -> list[range]:
    """The indices 0 … count − 1, in rows of the grid; each row is one batch."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _labels(text: str | None, count: int) -> list[int] | None:
    """One label for each picture."""
    if text is None:
        return None
    try:
        labels = [int(part) for part in text.split(",")]
    except ValueError:
        labels = [-1]
    if min(labels) < 0:
        raise click.BadParameter(f"expected classes, as in 0,1,2 (got '{text}')", param_hint="--class-labels")
    return [labels[i % len(labels)] for i in range(count)]
