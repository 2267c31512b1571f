"""A latent diffusion with random weights, its config and its checkpoint as PyTorch Lightning would save it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from click.testing import CliRunner
from torch import Tensor, nn

from distillkit.cli.group import cli
from helpers.compvis import lightning
from helpers.compvis.autoencoder import VqAutoencoder
from helpers.compvis.configs import tiny_class_conditional
from helpers.compvis.unet import UNet


class LatentDiffusion(nn.Module):
    """Built from a config's `model.params`. No weight is zero, as some are at the start of a training."""

    def __init__(self, params: Mapping[str, Any], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = nn.ModuleDict({"diffusion_model": UNet(params["unet_config"]["params"])})
        self.first_stage_model = VqAutoencoder(params["first_stage_config"]["params"])
        condition = params["cond_stage_config"]
        if isinstance(condition, Mapping):
            embedding = nn.Embedding(condition["params"]["n_classes"], condition["params"]["embed_dim"])
            self.cond_stage_model = nn.ModuleDict({"embedding": embedding})
        steps, ends = params["timesteps"], (params["linear_start"], params["linear_end"])
        self.betas = torch.linspace(ends[0] ** 0.5, ends[1] ** 0.5, steps, dtype=torch.float64).square()
        self.scale_factor = params.get("scale_factor", 1.0)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if "norm" in name or weight.ndim == 1:
                    weight.add_(torch.randn_like(weight) / 10)
        self.eval()

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """ε̂ at times t [B], of classes [B] if it has any."""
        context = None if labels is None else self.cond_stage_model["embedding"](labels[:, None])
        return self.model["diffusion_model"](z, t, context)

    @torch.no_grad()
    def sample(self, z: Tensor, steps: int, labels: Tensor | None = None, null: int = 0, scale: float = 1.0) -> Tensor:
        """DDIM (η = 0) at the times 1, 1 + T/S, … from noise z, with guidance; latents [B, C, H, W]."""
        bars = (1 - self.betas).cumprod(0)
        times = torch.arange(steps) * (len(bars) // steps) + 1
        # CompVis' last step lands on ᾱ_0, not on 1.
        before = torch.cat([torch.tensor([0]), times[:-1]])
        for t, s in zip(times.flip(0), before.flip(0), strict=True):
            eps = self.predict(z, t.expand(len(z)), labels)
            if scale != 1:
                assert labels is not None
                other = self.predict(z, t.expand(len(z)), torch.full_like(labels, null))
                eps = other + scale * (eps - other)
            x = (z - (1 - bars[t]).sqrt() * eps) / bars[t].sqrt()
            z = (bars[s].sqrt() * x + (1 - bars[s]).sqrt() * eps).float()
        return z

    def state(self, ema: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The state dict with what a training leaves there; with an average of the U-Net's weights, by their names."""
        bars = (1 - self.betas).cumprod(0)
        extra = {"betas": self.betas.float(), "alphas_cumprod": bars.float(), "logvar": torch.zeros(len(bars))}
        if ema is not None:
            extra |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
            extra |= {"model_ema." + name.removeprefix("model.").replace(".", ""): ema[name] for name in ema}
        return self.state_dict() | extra


def write(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a checkpoint and its config: model.ckpt, config.yaml."""
    folder.mkdir(exist_ok=True)
    lightning.save(folder / "model.ckpt", state)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config}), encoding="utf-8")


def class_conditional_teacher(folder: Path) -> Path:
    """The folder that `distillkit convert` makes of `tiny_class_conditional`'s checkpoint."""
    config = tiny_class_conditional()
    write(folder, config, LatentDiffusion(config["model"]["params"]).state())
    words = ["convert", f"{folder}/model.ckpt", "--config", f"{folder}/config.yaml", "--output", f"{folder}/pipeline"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    return folder / "pipeline"


def refused(*options: str) -> str:
    """What the command says of model.ckpt and config.yaml; it must leave nothing."""
    before = sorted(os.listdir())
    done = CliRunner().invoke(cli, ["convert", "model.ckpt", "--config", "config.yaml", "--output", "out", *options])
    assert (done.exit_code, done.stdout) == (2, ""), done.exception
    assert sorted(os.listdir()) == before
    return done.stderr.removesuffix("\n")
