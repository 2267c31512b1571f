"""Makes a second teacher of Fashion-MNIST, which predicts ε: the bundled one, trained on to say the same as ε.

    python docs/epsilon_teacher.py FOLDER

It begins with the bundled teacher's weights, and learns the ε of the bundled teacher's v, on samples of the bundled
teacher (DPM-Solver++ with 8 Karras times, guidance 1.25) that are noised to any time. An ε-network is another kind of
teacher: at the noisiest times, the error of its ε is multiplied by σ/α in x̂, which is 12 there.
"""

from __future__ import annotations

import sys
from math import cos, pi
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from distillkit_diffusers.export import save
from distillkit_diffusers.pipelines.class_conditional import ClassConditionalPipeline
from distillkit_fashion.fashion import FOLDER

SAMPLES = 6000
UPDATES = 3500
BATCH = 48
NULL = 10


def samples(pipeline: ClassConditionalPipeline, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Guided samples of the bundled teacher, [count, 1, 32, 32], and their classes, [count]."""
    unet = pipeline.unet
    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    generator = torch.Generator().manual_seed(1000)
    labels = torch.arange(count) % NULL
    made = []
    for classes in labels.split(100):
        z = torch.randn(len(classes), 1, 32, 32, generator=generator)
        scheduler.set_timesteps(8)
        for t in scheduler.timesteps:
            both = unet(torch.cat([z, z]), t, torch.cat([torch.full_like(classes, NULL), classes])).sample
            unconditional, conditional = both.chunk(2)
            z = scheduler.step(unconditional + 1.25 * (conditional - unconditional), t, z).prev_sample
        made.append(z.clamp(-1, 1))
    return torch.cat(made), labels


def main(folder: Path) -> None:
    """Train the teacher and save its pipeline."""
    torch.manual_seed(0)
    unet, scheduler = (
        UNet2DModel.from_pretrained(FOLDER / "unet", variant="fp16"),
        DPMSolverMultistepScheduler.from_pretrained(FOLDER / "scheduler"),
    )
    pipeline = ClassConditionalPipeline(unet, scheduler, null_class=NULL)
    pipeline.set_progress_bar_config(disable=True)
    teacher = pipeline.unet.eval().requires_grad_(False)
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        data, classes = samples(pipeline, SAMPLES)
    student = UNet2DModel.from_config(teacher.config)
    student.load_state_dict(teacher.state_dict())
    optimizer = torch.optim.Adam(student.parameters(), betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    generator = torch.Generator().manual_seed(1001)
    root = noising.alphas_cumprod.sqrt()
    for update in range(UPDATES):
        rows = torch.randint(SAMPLES, (BATCH,), generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *data.shape[1:], generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < 0.1
        labels = classes[rows].masked_fill(dropped, NULL)
        alpha, sigma = root[t].view(-1, 1, 1, 1), (1 - root[t].square()).sqrt().view(-1, 1, 1, 1)
        z = alpha * data[rows] + sigma * noise
        with torch.no_grad():
            goal = alpha * teacher(z, t, labels).sample + sigma * z
        loss = (student(z, t, labels).sample - goal).square().mean()
        optimizer.param_groups[0]["lr"] = 5e-4 * min(1, (update + 1) / 100) * (0.51 + 0.49 * cos(pi * update / UPDATES))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(student)
        if update % 100 == 99:
            print(f"{update + 1}: {loss.item():.5f}", flush=True)
    teacher.load_state_dict(average.module.state_dict())
    pipeline.scheduler.register_to_config(prediction_type="epsilon")
    save(pipeline, folder, "A teacher that predicts ε, made by docs/epsilon_teacher.py of distillkit.\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
