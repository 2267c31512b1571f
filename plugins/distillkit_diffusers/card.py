"""The model card of an exported pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit.interfaces import Export

CONDITIONAL = """from diffusers import DiffusionPipeline

# trust_remote_code: diffusers has no pipeline for class-conditional models in pixel space, so the folder brings its
# own, in class_conditional.py.
pipe = DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)
images = pipe(class_labels=[0, 1, 2, 3], num_inference_steps={steps}).images"""

UNCONDITIONAL = """from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")
images = pipe(batch_size=4, num_inference_steps={steps}).images"""


def model_card(
    export: Export, pipeline_class: str, conditional: bool, exact: bool, taken: Sequence[float] | None
) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        export: what to say.
        pipeline_class: the name of the pipeline's class.
        conditional: whether it takes class labels.
        exact: whether diffusers' times are those of the training at `export.steps`.
        taken: the lowest and the highest guidance scale that the network takes as an input; None if it takes none.
    """
    snippet = (CONDITIONAL if conditional else UNCONDITIONAL).format(steps=export.steps)
    guidance = "none (scale 1)" if export.guidance == 1 else f"scale {export.guidance:g}"
    if taken is not None:
        guidance += f"; the network takes any scale from {taken[0]:g} to {taken[1]:g} as an input, in one evaluation"
    sampler = "deterministic (DDIM)"
    fits = f"exact at\n  {export.steps} steps (at other numbers diffusers may round times differently)"
    if export.sampler == "consistency":
        sampler = "multistep consistency (LCMScheduler): every step jumps to clean data; all but the last add noise"
        fits = "\n  exact at every number of steps"
    elif not exact:
        fits = f"but at\n  {export.steps} steps that has times between whole numbers, which diffusers rounds"
    rows = "\n".join(
        f"| {row['model']} | {row['steps']} | {row['metric']} | {row['value']:.4g} | {row['samples']} |"
        for row in export.scores
    )
    protocols = "\n".join(f"- `{line}`" for line in dict.fromkeys(str(row["protocol"]) for row in export.scores))
    scores = (
        f"## Scores\n\n| model | steps | metric | value | samples |\n|---|---|---|---|---|\n{rows}\n\n"
        f"Protocol:\n\n{protocols}\n"
        if export.scores
        else "## Scores\n\nNone were asked for.\n"
    )
    student = export.settings.get("student")
    trained = f"- Trained: a LoRA of rank {student['rank']}, which is part of the weights here\n" if student else ""
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [diffusion, distillation, distillkit]
---

# {export.settings["run"]["name"]}

A diffusion model that samples in **{export.steps} steps**, made with distillkit.

- Method: `{export.method}`, {export.settings["run"]["updates"]} updates
- Made from: {export.teacher}
{trained}- Sampling steps: {export.steps} (scored at {", ".join(map(str, export.served)) or "none"})
- Guidance: {guidance}
- Sampler: {sampler}
- Pipeline: `{pipeline_class}`; the scheduler's config is the one it was trained for, {fits}

```python
{snippet}
```

{scores}"""
