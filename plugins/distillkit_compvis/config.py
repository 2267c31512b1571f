"""Reads the YAML config of a CompVis latent diffusion.

Keys that only training uses are ignored. Keys of the networks must keep their defaults where another value would make
a network that diffusers does not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from distillkit.errors import ConfigError, DistillkitError, Mistake

UNCONDITIONAL = "__is_unconditional__"


def _none_if(absent: Any) -> BeforeValidator:
    """Read CompVis' marker for a missing value as None."""
    return BeforeValidator(lambda value: None if value == absent else value)


Width = Annotated[int, Field(ge=32, multiple_of=32)]
"""A number of channels that a group norm with 32 groups can divide."""
Heads = Annotated[PositiveInt | None, _none_if(-1)]
Levels = Annotated[list[PositiveInt], Field(min_length=1)]


class Part(BaseModel):
    """Ignores unknown keys, which only training uses."""

    model_config = ConfigDict(frozen=True)


class Network(BaseModel):
    """Refuses unknown keys, which would change the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Unet(Network):
    """`UNetModel`. The width of a head is `num_head_channels`, or the layer's width over `num_heads`."""

    image_size: PositiveInt
    in_channels: PositiveInt
    out_channels: PositiveInt
    model_channels: Width
    attention_resolutions: list[int]
    num_res_blocks: PositiveInt
    channel_mult: Levels
    num_heads: Heads = None
    num_head_channels: Heads = None
    use_spatial_transformer: bool = False
    transformer_depth: PositiveInt = 1
    context_dim: PositiveInt | None = None
    dropout: float = 0.0
    use_checkpoint: bool = False
    legacy: bool = True
    dims: Literal[2] = 2
    num_classes: None = None
    conv_resample: Literal[True] = True
    use_scale_shift_norm: Literal[False] = False
    resblock_updown: Literal[False] = False
    use_new_attention_order: Literal[False] = False
    use_fp16: Literal[False] = False

    @model_validator(mode="after")
    def _check_heads(self) -> Unet:
        divisor = self.num_heads or self.num_head_channels
        if divisor is None or (self.num_heads and self.num_head_channels):
            raise ValueError("give either num_heads or num_head_channels")
        if any(factor * self.model_channels % divisor for factor in self.channel_mult):
            raise ValueError(f"num_heads or num_head_channels, {divisor}, must divide the width of every level")
        if not self.use_spatial_transformer and self.num_heads is not None and self.num_heads > 1:
            raise ValueError(
                "num_heads must be 1 without use_spatial_transformer, or num_head_channels be given: diffusers' "
                "UNet2DModel has heads of one width"
            )
        return self


class Autoencoder(Network):
    """Encoder and decoder, `ddconfig`."""

    z_channels: PositiveInt
    resolution: PositiveInt
    in_channels: PositiveInt
    out_ch: PositiveInt
    ch: Width
    ch_mult: Levels
    num_res_blocks: PositiveInt
    dropout: float = 0.0
    attn_resolutions: Annotated[list[int], Field(max_length=0)]
    double_z: Literal[False] = False


class Vq(Part):
    """`VQModelInterface`."""

    ddconfig: Autoencoder
    n_embed: PositiveInt
    embed_dim: PositiveInt


class ClassEmbedder(Part):
    """`ClassEmbedder`. Where the config names `n_classes`, the last one is the null class, as in cin256-v2; the default
    is ImageNet's 1000 classes and none."""

    embed_dim: PositiveInt
    n_classes: PositiveInt | None = None


class UnetConfig(Part):
    target: Literal["ldm.modules.diffusionmodules.openaimodel.UNetModel"]
    params: Unet


class FirstStageConfig(Part):
    target: Literal["ldm.models.autoencoder.VQModelInterface"]
    params: Vq


class CondStageConfig(Part):
    target: Literal["ldm.modules.encoders.modules.ClassEmbedder"]
    params: ClassEmbedder


class Diffusion(Part):
    """`LatentDiffusion`: β linear in the square root from `linear_start` to `linear_end`."""

    unet_config: UnetConfig
    first_stage_config: FirstStageConfig
    cond_stage_config: Annotated[CondStageConfig | None, _none_if(UNCONDITIONAL)]
    timesteps: PositiveInt = 1000
    linear_start: float = 1e-4
    linear_end: float = 2e-2
    beta_schedule: Literal["linear"] = "linear"
    parameterization: Literal["eps"] = "eps"
    conditioning_key: Literal["crossattn"] | None = None
    scale_factor: float = 1.0
    scale_by_std: Literal[False] = False

    @model_validator(mode="after")
    def _check_condition(self) -> Diffusion:
        unet, condition = self.unet_config.params, self.cond_stage_config
        if unet.use_spatial_transformer != (condition is not None):
            raise ValueError(
                "unet_config.params.use_spatial_transformer must be true with a cond_stage_config, and false without "
                f"({UNCONDITIONAL})"
            )
        if condition is not None and self.conditioning_key is None:
            raise ValueError("conditioning_key must be 'crossattn' with a cond_stage_config")
        if condition is not None and unet.context_dim != condition.params.embed_dim:
            raise ValueError(
                f"unet_config.params.context_dim must be cond_stage_config's embed_dim, {condition.params.embed_dim} "
                f"(got {unet.context_dim})"
            )
        return self


class Model(Part):
    target: Literal["ldm.models.diffusion.ddpm.LatentDiffusion"]
    params: Diffusion


class Config(Part):
    model: Model


def read_config(path: Path) -> Diffusion:
    """Read a config.

    Raises:
        ConfigError: keys that cannot be converted.
        DistillkitError: the file cannot be read as YAML.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DistillkitError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DistillkitError(f"{path}: must be the config of a CompVis latent diffusion, with `model` at its top")
    try:
        return Config.model_validate(content).model.params
    except ValidationError as error:
        raise ConfigError([_mistake(fault) for fault in error.errors()], str(path)) from None


def _mistake(fault: Any) -> Mistake:
    """An error of pydantic's as a mistake."""
    key, got = ".".join(map(str, fault["loc"])), fault["input"]
    if fault["type"] == "missing":
        return Mistake(key, "is required")
    if fault["type"] == "extra_forbidden":
        return Mistake(key, "is not known: the network would not be diffusers'")
    if fault["type"] == "value_error":
        return Mistake(key, str(fault["ctx"]["error"]))
    if fault["type"] == "model_type":
        return Mistake(key, f"must be a mapping with target and params (got {got!r})")
    if fault["type"] == "too_long":
        return Mistake(key, f"must be empty (got {got})")
    return Mistake(key, f"{fault['msg'].replace('Input should', 'must')} (got {got!r})")
