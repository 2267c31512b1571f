"""diffusers pipelines for class-conditional U-Nets: in pixel space, and on the latents of a VQ autoencoder.

from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe(class_labels=[0, 1, 2, 3]).images

Needs only torch and diffusers. A saved pipeline brings this file along, and those of its parts' classes.
"""

import json
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor


class ClassConditionalPipeline(DiffusionPipeline):
    """Pixels.

    Args:
        unet, scheduler: the parts.
        num_inference_steps, guidance_scale: those that it was made for.
        null_class: the class that means "none".
        times: for numbers of steps, the argument of the scheduler's `set_timesteps`, {"4": {"timesteps": [999, 463,
            251, 83]}}. At other numbers, and with a scheduler that does not take it, the scheduler's own times are
            used; also without (`pipe.register_to_config(times=None)`).
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        null_class: int | None = None,
        times: dict[str, dict[str, list[float]]] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, null_class=null_class, times=times
        )
        self.image_processor = VaeImageProcessor()

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """A pipeline of this class with another one's parts and settings; `kwargs` replace some of them."""
        # Given by name, parts may be of classes that diffusers lacks.
        taken = signature(cls.__init__).parameters
        parts = {name: part for name, part in pipeline.components.items() if name in taken}
        return super().from_pipe(pipeline, **parts | kwargs)

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json, and the files with the classes that diffusers lacks."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        index = Path(save_directory) / self.config_name
        content = json.loads(index.read_text(encoding="utf-8"))
        for part, found in {"": self, **self.components}.items():
            # torch.compile wraps a network.
            made = type(getattr(found, "_orig_mod", found))
            if made.__module__.split(".")[0] == "diffusers":
                continue
            source = Path(str(sys.modules[made.__module__].__file__))
            target = index.parent / part / source.name
            target.parent.mkdir(exist_ok=True)
            # A pipeline may be saved over the folder that it was loaded from.
            target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
            content[part or "_class_name"] = [source.stem, made.__name__]
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def guidance_scale(self) -> float:
        """The scale s of the call; 1 is none."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """The number of evaluations of the call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: the steps that are left are not taken."""
        return self._interrupt

    @property
    def classes(self) -> int:
        """The number of classes, with the one that means "none"."""
        return int(self.unet.config.num_class_embeds)

    def check_inputs(
        self, labels: torch.Tensor, steps: int, scale: float, generator: Any, output_type: str, wanted: Sequence[str]
    ) -> None:
        """Raise a ValueError if the call cannot be carried out."""
        if scale != 1 and self.config.null_class is None:
            raise ValueError(f"guidance_scale must be 1 (got {scale}): the model has no null class to compare with")
        taken = self.unet.config.get("guidance_range")
        if taken is not None and not taken[0] <= scale <= taken[1]:
            raise ValueError(
                f"guidance_scale must be from {taken[0]:g} to {taken[1]:g}, which the network takes (got {scale})"
            )
        if not len(labels):
            raise ValueError("class_labels must name at least one class (got none)")
        if labels.is_floating_point() or labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"class_labels must be from 0 to {self.classes - 1} (got {labels.tolist()})")
        if steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1 (got {steps})")
        if isinstance(generator, list) and len(generator) != len(labels):
            raise ValueError(f"{len(generator)} generators for {len(labels)} class_labels; give one, or one for each")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be pil, np, pt or latent (got {output_type!r})")
        if unknown := [name for name in wanted if name not in self._callback_tensor_inputs]:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be in {list(self._callback_tensor_inputs)} (got {unknown})"
            )

    def set_timesteps(self, steps: int, device: Any) -> None:
        """Hand the scheduler the times for so many steps, if there are any and it takes them."""
        taken = signature(self.scheduler.set_timesteps).parameters
        times = (self.config.times or {}).get(str(steps), {})
        # EDMEulerScheduler takes only tensors, and all take them.
        own: dict[str, Any] = {
            key: torch.tensor(values, dtype=torch.float64) for key, values in times.items() if key in taken
        }
        self.scheduler.set_timesteps(**(own or {"num_inference_steps": steps}), device=device)

    def prepare_latents(self, count: int, generator: Any, latents: torch.Tensor | None, device: Any) -> torch.Tensor:
        """The noise [count, C, H, W], given or drawn, as large as the scheduler begins with."""
        size = self.unet.config.sample_size
        shape = (count, self.unet.config.in_channels, *([size, size] if isinstance(size, int) else size))
        if latents is None:
            latents = randn_tensor(shape, generator, device, self.unet.dtype)
        elif latents.shape != shape:
            raise ValueError(f"latents must be {list(shape)} (got {list(latents.shape)})")
        noise: torch.Tensor = latents.to(device, self.unet.dtype) * self.scheduler.init_noise_sigma
        return noise

    def encode_labels(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The network's inputs for classes [B]."""
        return {"class_labels": labels}

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in about [-1, 1], [B, C, H, W]."""
        return latents

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | list[int] | torch.Tensor,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample one picture per class.

        Args:
            class_labels: the classes.
            num_inference_steps, guidance_scale: those that the pipeline was made for by default.
            generator: one for all pictures, or one for each.
            latents: the noise N(0, I), [B, C, H, W]; drawn by default.
            output_type: "pil", "np" ([B, H, W, C]) or "pt" ([B, C, H, W]), with values in [0, 1]; or "latent", what the
                scheduler leaves, as it is.
            return_dict: return an ImagePipelineOutput, or else a tuple.
            callback_on_step_end: called after each step with the pipeline, the step, the time, and a dictionary; may
                return other "latents".
            callback_on_step_end_tensor_inputs: what the dictionary has: "latents".

        Raises:
            ValueError: an argument is outside its range.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self._guidance_scale, self._interrupt = scale, False
        device = self._execution_device
        labels = torch.as_tensor(class_labels, device=device).reshape(-1)
        self.check_inputs(labels, steps, scale, generator, output_type, callback_on_step_end_tensor_inputs)
        self.set_timesteps(steps, device)
        self._num_timesteps = len(self.scheduler.timesteps)
        z = self.prepare_latents(len(labels), generator, latents, device)

        # A network that takes the scale as an input needs one evaluation; any other one for each half of a batch.
        takes = self.unet.config.get("guidance_range") is not None
        doubled = scale != 1 and not takes
        if doubled:
            labels = torch.cat([labels, torch.full_like(labels, self.config.null_class)])
        inputs = self.encode_labels(labels)
        if takes:
            inputs["guidance"] = torch.full((len(labels),), float(scale), device=device)
        # Not every scheduler draws noise.
        takes_generator = "generator" in signature(self.scheduler.step).parameters
        drawing = {"generator": generator} if takes_generator else {}

        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                continue
            scaled = self.scheduler.scale_model_input(z, t)
            output = self.unet(torch.cat([scaled, scaled]) if doubled else scaled, t, **inputs).sample
            if doubled:
                conditional, null = output.chunk(2)
                output = null + scale * (conditional - null)
            z = self.scheduler.step(output, t, z, **drawing).prev_sample.to(self.unet.dtype)
            if callback_on_step_end is not None:
                known = dict.fromkeys(callback_on_step_end_tensor_inputs, z)
                z = callback_on_step_end(self, i, t, known).pop("latents", z)

        images = z if output_type == "latent" else self.decode_latents(z)
        images = self.image_processor.postprocess(images, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


class ClassLatentPipeline(ClassConditionalPipeline):
    """Latents. Args: as of a ClassConditionalPipeline, and vqvae and class_embedder."""

    model_cpu_offload_seq = "class_embedder->unet->vqvae"

    def __init__(
        self,
        vqvae: Any,
        unet: Any,
        class_embedder: Any,
        scheduler: Any,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        null_class: int | None = None,
        times: dict[str, dict[str, list[float]]] | None = None,
    ) -> None:
        super().__init__(unet, scheduler, num_inference_steps, guidance_scale, null_class, times)
        self.register_modules(vqvae=vqvae, class_embedder=class_embedder)

    @property
    def classes(self) -> int:
        """The number of classes, with the one that means "none"."""
        return int(self.class_embedder.config.num_classes)

    def encode_labels(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The embeddings of classes [B], [B, 1, D]."""
        return {"encoder_hidden_states": self.class_embedder(labels).to(self.unet.dtype)}

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in about [-1, 1], [B, 3, H, W], after quantisation."""
        pictures: torch.Tensor = self.vqvae.decode(
            latents.to(self.vqvae.dtype) / self.vqvae.config.scaling_factor
        ).sample
        return pictures
