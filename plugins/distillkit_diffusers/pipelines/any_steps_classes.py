"""Class-conditional pipelines whose network is told how many steps it takes.

from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe(class_labels=[0, 1, 2, 3], num_inference_steps=4).images

Needs only torch and diffusers. A saved pipeline brings this file along, and those that it imports.
"""

from .any_steps import AnySteps
from .class_conditional import ClassConditionalPipeline as Pixels
from .class_conditional import ClassLatentPipeline as Latents


class ClassConditionalPipeline(AnySteps, Pixels):
    """Pixels."""


class ClassLatentPipeline(AnySteps, Latents):
    """Latents."""
