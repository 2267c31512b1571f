"""A diffusers pipeline for class-conditional U-Nets in pixel space. Needs only torch and diffusers.

from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe(class_labels=[0, 1, 2, 3]).images
"""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class ClassConditionalPipeline(DiffusionPipeline):
    """Args: unet, scheduler; the steps and guidance scale that it was made for; the null class."""

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        null_class: int | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, null_class=null_class
        )

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int] | torch.Tensor,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Sample one picture per entry of `class_labels`; `latents` [B, C, H, W] is the noise, drawn by default."""
        steps = num_inference_steps or self.config.num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        taken = self.unet.config.get("guidance_range")
        if taken is not None and not taken[0] <= scale <= taken[1]:
            raise ValueError(
                f"guidance_scale must be from {taken[0]:g} to {taken[1]:g}, which the network takes (got {scale})"
            )
        if scale != 1 and self.config.null_class is None:
            raise ValueError(f"guidance_scale must be 1 (got {scale}): the model has no null class to compare with")
        device = self._execution_device
        labels = torch.as_tensor(class_labels, device=device)
        # A network that takes the scale as an input needs one evaluation.
        extra = {} if taken is None else {"guidance": torch.full((len(labels),), float(scale), device=device)}
        size = self.unet.config.sample_size
        shape = (len(labels), self.unet.config.in_channels, *([size, size] if isinstance(size, int) else size))
        z = randn_tensor(shape, generator, device, self.unet.dtype) if latents is None else latents.to(device)
        self.scheduler.set_timesteps(steps, device=device)
        z = z * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(z, t)
            output = self.unet(scaled, t, labels, **extra).sample
            if scale != 1 and taken is None:
                null = self.unet(scaled, t, torch.full_like(labels, self.config.null_class)).sample
                output = null + scale * (output - null)
            z = self.scheduler.step(output, t, z, generator=generator).prev_sample
        images = (z / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images)
