"""`distillkit evaluate`: scores of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from distillkit.cli.options import echo_json, json_option, parse_steps, prompts_option, set_option
from distillkit.cli.pipeline import grid_of, make_predictor, picture_shape, split_assignments
from distillkit.config import read_scoring
from distillkit.errors import DistillkitError
from distillkit.evaluation import Evaluator
from distillkit.exporting import load_model, pipeline_folder, tables_of_run
from distillkit.registry import load_registry
from distillkit.terminal import Reporter, print_scores
from distillkit.training.seams import watch_data


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option("--steps", callback=parse_steps, default="2,4,8", show_default=True, help="Numbers of sampling steps.")
@click.option("--samples", type=click.IntRange(2), help="Samples per score. [default: the run's, or 1000]")
@click.option("--features", help="The feature network. [default: the run's, or the default one]")
@click.option("--metric", "metrics", multiple=True, help="May be given again. [default: the run's, or the default one]")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A folder of real pictures. [default: the run's reference, or the one that comes with the features]",
)
@click.option(
    "--solver",
    "solvers",
    multiple=True,
    help="Sample with DDIM (ddim) or with a scheduler of diffusers', as dpmsolver++-karras; may be given again. "
    "[default: the pipeline's own sampler]",
)
@prompts_option
@set_option
@json_option
def command(
    pipeline: Path,
    steps: list[int],
    samples: int | None,
    features: str | None,
    metrics: tuple[str, ...],
    reference: Path | None,
    solvers: tuple[str, ...],
    prompts: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score PIPELINE, the folder of a diffusers pipeline or of a run, at several numbers of sampling steps.

    A run's pipeline is scored with the run's config, any other with the
    default features and metric (docs/reference.md). Options and --set change the tables
    evaluation, engine, data, features, metric and model. Grid and sampler are the pipeline's own, unless --set names
    others; so is the guidance scale of a pipeline without its run.
    """
    folder = pipeline_folder(pipeline)
    of_model, others = split_assignments(assignments)
    model = load_model(folder, prompts, of_model)
    known = ("ddim", *model.spec.solvers)
    if unknown := [solver for solver in solvers if solver not in known]:
        raise DistillkitError(
            f"--solver: is {unknown[0]}, which the model does not have; expected {' or '.join(known)}"
        )
    registry = load_registry()
    tables: dict[str, Any] = {
        "features": registry.table("features"),
        "metric": [registry.table("metric")],
        "evaluation": {"guidance": model.spec.guidance},
    }
    tables |= tables_of_run(folder)
    # The pipeline has its own.
    tables["grid"] = grid_of(model)
    tables["evaluation"].pop("sampler", None)
    if features is not None:
        tables["features"] = {"type": features}
    if metrics:
        tables["metric"] = [{"type": metric} for metric in metrics]
    if samples is not None:
        tables["evaluation"]["samples"] = samples
    if reference is not None:
        channels, size = picture_shape(model)
        tables["data"] = registry.table("data", folder=str(reference), size=size, channels=channels)
        tables["evaluation"]["reference"] = "data"
    scoring = read_scoring(tables, str(folder), others)

    path = model.spec.with_grid(scoring.grid.spacing, scoring.grid.start).path
    predictor, scoring = make_predictor(model, path, scoring)
    wanted = scoring.evaluation
    bundled = scoring.features is not None and scoring.features.has_bundled_reference
    if scoring.data is not None and (wanted.reference == "data" or not bundled):
        scoring.data.setup()
        watch_data(scoring.data)
    rows = []
    reporter = Reporter(Console(stderr=True))
    ways: list[tuple[str | None, int]] = [(solver, number) for solver in solvers or (None,) for number in steps]
    with reporter.task("samples", len(ways) * wanted.samples):
        evaluator = Evaluator(scoring, model, scoring.engine.device, scoring.engine.autocast)
        for solver, number in ways:
            scores = evaluator.score(predictor, number, wanted.samples, on_batch=reporter.advance, solver=solver)
            rows += evaluator.rows("student", number, wanted.samples, scores, solver)
    rows = [row | {"model": str(pipeline)} for row in rows]
    if as_json:
        echo_json(rows)
    else:
        print_scores(rows, labels=("model", "solver") if solvers else ("model",))
        for protocol in dict.fromkeys(row["protocol"] for row in rows):
            click.echo(protocol)
