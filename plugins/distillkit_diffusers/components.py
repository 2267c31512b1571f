"""Checks the parts that a pipeline's model_index.json names: those that are loaded, and those that an export copies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distillkit.errors import DistillkitError, Mistake
from distillkit.reading import check_not_a_pointer, links
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.reading import what_is
from distillkit_diffusers.weights import PICKLES

WEIGHTS = (".safetensors", *PICKLES)
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""The files that hold a tokenizer's words. transformers would take a tokenizer without them for one without words."""


def check(folder: PipelineFolder, needed: Mapping[str, Sequence[str]]) -> Iterator[Mistake]:
    """Mistakes in model_index.json, and in the folders of the parts.

    Args:
        folder: the pipeline's.
        needed: the parts with weights that the family loads, and the classes that each may have; their weights are
            checked elsewhere.
    """
    yield from _check_index(folder, needed)
    for name in folder.components:
        if name in needed and folder.part(name) != folder.path / name:
            continue
        if Path(name).name != name or not (folder.path / name).is_dir():
            yield Mistake("path", f"{folder.path / 'model_index.json'}: names '{name}', which is no folder beside it")
            continue
        yield from _check_links(folder, name)
        yield from _check_files(folder.path / name)
        try:
            if name not in needed and folder.is_network(name) and folder.has_weights(name):
                yield from folder.check_weights(name)
        except DistillkitError as error:
            yield Mistake("path", str(error))


def _check_index(folder: PipelineFolder, needed: Mapping[str, Sequence[str]]) -> Iterator[Mistake]:
    """Mistakes in the entries of model_index.json."""
    file, index = folder.path / "model_index.json", folder.index
    for name, classes in needed.items():
        library = "transformers" if name.startswith("text_encoder") else "diffusers"
        if index.get(name) not in [[library, one] for one in classes]:
            got = f"is {json.dumps(index[name])}" if name in index else "is not there"
            wanted = " or ".join(json.dumps([library, one]) for one in classes)
            yield Mistake("path", f"{file}: the entry '{name}' {got}; a {folder.pipeline_class} needs {wanted}")
    for name, entry in index.items():
        if name in needed or name[:1] == "_" or not (isinstance(entry, list) or (folder.path / name).is_dir()):
            continue
        texts = isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry)
        if not texts and entry != [None, None]:
            yield Mistake(
                "path",
                f"{file}: the entry '{name}' is {json.dumps(entry)}; expected a library and a class, or [null, null] "
                "where the pipeline has no such part",
            )


def _check_files(part: Path) -> Iterator[Mistake]:
    """Mistakes in the files of a part."""
    try:
        for file in sorted(part.rglob("*")):
            if not (file.is_file() or file.is_dir()):
                yield Mistake("path", f"{file}: {what_is(file)}; remove it, as an export copies the folder")
            elif file.is_file() and file.suffix not in WEIGHTS:
                check_not_a_pointer(file)
        names = {file.name for file in part.iterdir()}
    except (OSError, DistillkitError) as error:
        yield Mistake("path", str(error))
        return
    if part.name.startswith("tokenizer"):
        if not any(names.issuperset(files) for files in VOCABULARIES):
            known = ", or ".join(" with ".join(files) for files in VOCABULARIES)
            yield Mistake("path", f"{part}: has no vocabulary ({known}); get the folder anew")
    elif not any(name.endswith("config.json") for name in names):
        yield Mistake("path", f"{part}: has no config, and model_index.json names it as a part; get the folder anew")


def _check_links(pipeline: PipelineFolder, name: str) -> Iterator[Mistake]:
    """Mistakes where a link leads out of the folder: an export would copy what is there, which may be private.

    In the hub's cache, files are links to `blobs`.
    """
    path = pipeline.path
    cache = path.resolve().parents[1:2]
    inside = [path.resolve(), *(folder / "blobs" for folder in cache if folder.name.startswith("models--"))]
    for link in [*filter(Path.is_symlink, [path / name]), *links(path / name)]:
        if not any(link.resolve().is_relative_to(folder) for folder in inside):
            yield Mistake(
                "path",
                f"{link}: is a link that leads out of the folder, to {link.resolve()}, and the export would copy "
                "what is there; put a copy in its place, if you trust it",
            )
