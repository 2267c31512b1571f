"""`distillkit convert`: converts a checkpoint of a model's original code to a pipeline."""

from __future__ import annotations

from pathlib import Path

import click
from safetensors import SafetensorError

from distillkit.config import read_component
from distillkit.errors import DistillkitError
from distillkit.files import aside, reason, replace
from distillkit.reading import check_file
from distillkit.registry import checked, load_registry, wrong


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CKPT")
@click.option("--config", type=click.Path(path_type=Path), required=True, metavar="YAML", help="Its networks' config.")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder.")
@click.option("--no-ema", is_flag=True, help="Use the weights themselves, even if CKPT also has their running average.")
@click.option("--format", "kind", help="The name of the converter for the code that wrote CKPT.")
def command(checkpoint: Path, config: Path, output: Path, no_ema: bool, kind: str | None) -> None:
    """Convert CKPT, a checkpoint of a model's original code, to a folder that diffusers and distillkit load.

    This is the only command that opens a pickle. It uses torch's restricted loading, which makes tensors and runs no
    code; a file that needs more is refused.
    """
    check_file(checkpoint, "the checkpoint")
    check_file(config, "the config")
    if output.exists():
        raise DistillkitError(f"{output}: already exists; nothing was overwritten. Give a new folder with --output")
    kind = kind or load_registry().default("converter")
    converter = read_component("converter", {"type": kind}, "--format")
    # On the same disk, so that it can be renamed, and in an existing folder, so that a failure leaves no folders.
    existing = next(folder for folder in output.absolute().parents if folder.exists())
    try:
        with aside(existing, output.name) as folder:
            folder.mkdir()
            made = converter.convert(checkpoint, config, not no_ema, folder)
            if not (folder.is_dir() and any(folder.iterdir())):
                raise wrong(converter, "convert()", "an empty folder", "the files of a pipeline in it")
            checked(converter, "convert()", made, isinstance(made, str) and made != "", "a description of the files")
            output.parent.mkdir(parents=True, exist_ok=True)
            replace(folder, output)
    except (OSError, SafetensorError) as error:
        raise DistillkitError(
            f"{output}: cannot be written ({reason(error)}); nothing is left of it: make room, or give another folder "
            "with --output"
        ) from None
    click.echo(f"{output}: {made}")
