"""`distillkit convert`: an original checkpoint as a pipeline's folder."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from distillkit.config import read_component
from distillkit.errors import DistillkitError
from distillkit.files import replace
from distillkit.registry import load_registry


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CKPT")
@click.option("--config", type=click.Path(path_type=Path), required=True, metavar="YAML", help="Its networks' config.")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder.")
@click.option("--no-ema", is_flag=True, help="Take the weights themselves, where CKPT also has their running average.")
@click.option("--format", "kind", help="Whose code made CKPT: a converter's name.")
def command(checkpoint: Path, config: Path, output: Path, no_ema: bool, kind: str | None) -> None:
    """Turn CKPT, a checkpoint of a model's original code, into a folder that diffusers and distillkit load.

    Only this command opens a pickled model: with torch's restricted loading, which makes tensors and runs nothing. A
    file that asks for more is refused.
    """
    for file, what in ((checkpoint, "checkpoint"), (config, "config")):
        if not file.is_file():
            raise DistillkitError(f"{file}: there is no such file; give the {what}'s")
    if output.exists():
        raise DistillkitError(f"{output}: exists already; nothing was overwritten. Give a new folder with --output")
    kind = kind or load_registry().default("converter")
    converter = read_component("converter", {"type": kind}, "--format")
    # On the same disk, so that it can be renamed; and in a folder that exists, so that a failure leaves no folders.
    existing = next(folder for folder in output.absolute().parents if folder.exists())
    try:
        with TemporaryDirectory(prefix=f".{output.name}.", dir=existing) as temporary:
            folder = Path(temporary) / output.name
            folder.mkdir()
            made = converter.convert(checkpoint, config, not no_ema, folder)
            output.parent.mkdir(parents=True, exist_ok=True)
            replace(folder, output)
    except OSError as error:
        raise DistillkitError(f"{output}: cannot be written ({error.strerror})") from None
    click.echo(f"{output}: {made}")
