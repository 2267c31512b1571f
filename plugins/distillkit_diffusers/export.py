"""Saves a pipeline, with its model card, as a folder that diffusers loads without distillkit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export
from distillkit.reading import way
from distillkit_diffusers import pipelines
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.libraries import without_bars
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.times import Sampling
from distillkit_diffusers.weights import PICKLES, stem_of

NO_COPY = (*(f"*{suffix}" for suffix in PICKLES), "*.safetensors", "*.safetensors.index*.json")
"""Files that are not copied with the rest of a part: pickles, and weights, of which one variant is copied."""


def save(pipeline: Any, folder: Path, card: str) -> None:
    """Write a pipeline, and load it once.

    Args:
        pipeline: an object of diffusers', or one of `pipelines`, which brings its code along.
        folder: created if it does not exist.
        card: the text of README.md.

    Raises:
        DistillkitError: diffusers cannot load what was written.
    """
    pipeline.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    with _must_load():
        if type(pipeline).__module__ in _SHIPPED:
            # By its parts: the loader would leave a copy of the code in the user's cache of modules, for good.
            for name, part in pipeline.components.items():
                type(part).from_pretrained(folder / name)
        else:
            type(pipeline).from_pretrained(folder, local_files_only=True)


_SHIPPED = frozenset(f"{pipelines.__name__}.{name}" for name in pipelines.MODULES)


def save_over(source: PipelineFolder, parts: Mapping[str, Any], folder: Path, card: str) -> None:
    """Write the pipeline of another folder with some of its parts replaced, and the others copied; load it once.

    A part whose weights are no safetensors (Stable Diffusion's safety checker may be a pickle) is left out, as if the
    pipeline had been made without it. So is a part that diffusers' pipeline does not know.

    Args:
        source: the other folder.
        parts: the new parts by name, objects of diffusers'.
        folder: must not exist.
        card: the text of README.md.

    Raises:
        DistillkitError: diffusers cannot load what was written.
    """
    folder.mkdir(parents=True)
    index = source.index
    known = signature(getattr(diffusers, str(source.pipeline_class)).__init__).parameters
    for name in sorted(source.components.keys() - parts.keys()):
        if name not in known:
            del index[name]
            card += f"\nWithout the teacher's `{name}`, which diffusers' pipeline does not use.\n"
        elif source.has_weights(name):
            _copy(source, name, folder / name)
        else:
            index[name] = [None, None]
            if f"requires_{name}" in index:
                index[f"requires_{name}"] = False
            card += f"\nWithout the teacher's `{name}`, whose weights are no safetensors.\n"
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = ["diffusers", type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    with _must_load():
        diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)


@contextmanager
def _must_load() -> Iterator[None]:
    """Around the loading of an export, as its users will load it: one that does not load never takes its final name.

    It costs little: diffusers maps the files of weights into memory, and reads them when they are used. transformers
    copies text encoders, which the run has held before, to encode its prompts.
    """
    try:
        with without_bars(True):
            yield
    # Loaders raise whatever the libraries below them do.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DistillkitError(f"diffusers cannot load the exported pipeline, which was not kept: {reason}") from error


def _copy(source: PipelineFolder, part: str, target: Path) -> None:
    """Copy a part. Its weights, the ones that were read, get the names that diffusers looks for if told no variant."""
    shutil.copytree(source.part(part), target, ignore=shutil.ignore_patterns(*NO_COPY))
    if not (target / "config.json").is_file():  # which only networks have
        return
    weights = source.weights(part)
    if weights.wrapped:
        safetensors.torch.save_file(
            weights.tensors(), target / f"{stem_of(weights.folder)}.safetensors", {"format": "pt"}
        )
        return
    variant = f".{weights.variant}" if weights.variant else ""
    for file in weights.files:
        shutil.copyfile(file, target / file.name.replace(variant, ""))
    if (index := weights.index) is not None:
        content = read_json(index)
        content["weight_map"] = {name: file.replace(variant, "") for name, file in content["weight_map"].items()}
        (target / index.name.replace(variant, "")).write_text(json.dumps(content, indent=2), encoding="utf-8")


CLASS_CONDITIONAL = """from diffusers import DiffusionPipeline

# trust_remote_code: diffusers has no pipeline for such class-conditional models, so the folder brings its own, in
# {file}.
pipe = DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)
images = pipe(class_labels=[0, 1, 2, 3], num_inference_steps={steps}).images"""
"""Example code for class-conditional pipelines that a folder brings along."""

UNCONDITIONAL = """from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")
images = pipe(batch_size=4, num_inference_steps={steps}).images"""
"""Example code for diffusers' unconditional pipelines."""

DIT = """from diffusers import DiffusionPipeline

# DiTPipeline keeps neither steps nor guidance_scale: left out, they would be 50 and 4.
pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")
images = pipe(class_labels=[0, 1, 2, 3], guidance_scale={guidance}, num_inference_steps={steps}).images"""
"""Example code for DiTPipeline."""

TEXT_CONDITIONAL = """import torch
from diffusers import DiffusionPipeline

# The network is float32, and text encoders are loaded as they were saved: here all get one precision.
pipe = DiffusionPipeline.from_pretrained("path/to/this/folder").to(torch.float32)
images = pipe(
    {arguments},
).images"""


def text_conditional(prompt: str, arguments: Mapping[str, Any]) -> str:
    """Example code for diffusers' text-conditional pipelines.

    Args:
        prompt: a prompt that it was trained for.
        arguments: the other arguments of the call.
    """
    # JSON's strings and numbers are Python's.
    written = {key: json.dumps(value, ensure_ascii=False) for key, value in arguments.items()}
    words = [json.dumps(prompt, ensure_ascii=False), *(f"{key}={value}" for key, value in written.items())]
    return TEXT_CONDITIONAL.replace("{arguments}", ",\n    ".join(words).replace("{", "{{").replace("}", "}}"))


def model_card(
    export: Export,
    pipeline: Any,
    snippet: str,
    sampling: Sampling,
    taken: Sequence[float] | None = None,
    task: str = "unconditional-image-generation",
) -> str:
    """A model card: Markdown with the metadata that model hubs read.

    Args:
        export: what the pipeline states about itself.
        pipeline: the pipeline, or its class.
        snippet: example code, in which {steps} stands for the number of steps, {guidance} for the guidance scale, and
            {file} for the file of the pipeline's class.
        sampling: how the pipeline samples.
        taken: the range of guidance scales that the network takes as an input; None if it takes none.
        task: the pipeline tag of the model hub.
    """
    guidance = "none (scale 1)" if export.guidance == 1 else f"scale {export.guidance:g}"
    if export.baked is not None:
        guidance = (
            f"inside the network, at scale {export.baked:g}: call the pipeline without guidance, as below, in one\n"
            "  evaluation a step"
        )
    if taken is not None:
        scales = f"any scale from {taken[0]:g} to {taken[1]:g}" if isfinite(taken[1]) else "the scale"
        guidance += f"; the network takes {scales} as an input, in one evaluation"
    pipeline_class = pipeline if isinstance(pipeline, type) else type(pipeline)
    file = f"{pipeline_class.__module__.rpartition('.')[2]}.py"
    shown = [row for row in export.scores if row.get("best", True)]
    rows = "\n".join(
        f"| {row['model']}{f', {way(row)}' if 'solver' in row else ''} | {row['steps']} | {row['metric']} | "
        f"{row['value']:.4g} | {row['samples']} |"
        for row in shown
    )
    protocols = "\n".join(f"- `{line}`" for line in dict.fromkeys(str(row["protocol"]) for row in shown))
    table = f"| model | steps | metric | value | samples |\n|---|---|---|---|---|\n{rows}\n\nProtocol:\n\n{protocols}"
    handed = [(steps, *entry) for steps, given in sampling.times.items() for entry in given.items()]
    times = "".join(f"  - {steps} steps: `{key}={values}`\n" for steps, key, values in handed)
    times = times and f"- Times, which the scheduler has to be handed:\n{times}"
    count = ", ".join(map(str, export.several or (export.steps,)))
    fit = f"the scheduler's config is the one it was trained for, {sampling.fit}"
    if export.several:
        count = " or ".join(count.rsplit(", ", 1))
        times, fit = "", "at each call it sets network and scheduler\n  for the number of steps, by code in this folder"
        snippet = snippet.replace('folder")', 'folder", trust_remote_code=True)')
    rank = export.settings.get("student", {}).get("rank")
    trained = f"- Trained: a LoRA of rank {rank}, which is part of the weights here\n" if rank else ""
    return f"""---
library_name: diffusers
pipeline_tag: {task}
tags: [diffusion, distillation, distillkit]
---

# {export.settings["run"]["name"]}

A diffusion model that samples in **{count} steps**, made with distillkit.

- Method: `{export.method}`, {export.settings["run"]["updates"]} updates
- Made from: {export.teacher}
{trained}- Sampling steps: {count} (scored at {", ".join(map(str, export.served)) or "none"})
- Guidance: {guidance}
- Sampler: {sampling.sampler}
- Pipeline: `{pipeline_class.__name__}`; {fit}
{times}
```python
{snippet.format(steps=export.steps, guidance=f"{export.guidance:g}", file=file)}
```

## Scores

{table if shown else "None were asked for."}
"""
