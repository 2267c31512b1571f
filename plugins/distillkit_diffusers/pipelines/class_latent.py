"""A diffusers pipeline for class-conditional U-Nets on the latents of a VQ autoencoder. Needs only torch and diffusers.

from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe(class_labels=[0, 1, 2, 3]).images
"""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class ClassLatentPipeline(DiffusionPipeline):
    """Args: vqvae, unet, class_embedder, scheduler; the steps and guidance scale it was made for; the class that means
    "no class"."""

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
    ) -> None:
        super().__init__()
        self.register_modules(vqvae=vqvae, unet=unet, class_embedder=class_embedder, scheduler=scheduler)
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
        """Sample one picture per entry of `class_labels`; `latents` [B, C, H, W] is the noise, drawn by default.

        `output_type` is "pil", "np", "pt" (pictures in [0, 1], [B, 3, H, W]) or "latent".
        """
        steps = num_inference_steps or self.config.num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        if scale != 1 and self.config.null_class is None:
            raise ValueError(f"guidance_scale must be 1 (got {scale}): the model has no null class to compare with")
        device = self._execution_device
        labels = torch.as_tensor(class_labels, device=device)
        if scale != 1:
            labels = torch.cat([labels, torch.full_like(labels, self.config.null_class)])
        context = self.class_embedder(labels)
        size = self.unet.config.sample_size
        shape = (len(class_labels), self.unet.config.in_channels, *([size, size] if isinstance(size, int) else size))
        z = randn_tensor(shape, generator, device, self.unet.dtype) if latents is None else latents.to(device)
        self.scheduler.set_timesteps(steps, device=device)
        for t in self.progress_bar(self.scheduler.timesteps):
            output = self.unet(z if scale == 1 else torch.cat([z, z]), t, context).sample
            if scale != 1:
                conditional, null = output.chunk(2)
                output = null + scale * (conditional - null)
            z = self.scheduler.step(output, t, z, generator=generator).prev_sample
        if output_type == "latent":
            return ImagePipelineOutput(images=z)
        images = self.vqvae.decode(z / self.vqvae.config.scaling_factor).sample
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images)
