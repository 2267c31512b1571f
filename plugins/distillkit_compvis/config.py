"""Reads the YAML config of a CompVis latent diffusion.

Keys that only training uses are ignored. Keys of the networks must keep their defaults where another value would make
a network that diffusers does not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distillkit.component import StrictModel
from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.reading import read_text
from distillkit_compvis.checkpoint import short

UNCONDITIONAL = "__is_unconditional__"
LARGEST = 2**18
"""Bytes of a config; those that are published have 4000 at most."""
LEVELS = 32


def _none_if(absent: Any) -> BeforeValidator:
    """Read CompVis' marker for a missing value as None."""
    return BeforeValidator(lambda value: None if value == absent else value)


Size = Annotated[int, Field(gt=0, le=1_000_000)]
"""The limits of sizes are far above all that is published: torch can count the bytes of what they make."""
Width = Annotated[int, Field(ge=32, le=65_536, multiple_of=32)]
"""A number of channels that a group norm with 32 groups can divide."""
Heads = Annotated[Size | None, _none_if(-1)]
Levels = Annotated[list[Annotated[int, Field(gt=0, le=64)]], Field(min_length=1, max_length=LEVELS)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(gt=0, lt=1)]


class Part(StrictModel):
    """Ignores unknown keys, which only training uses. A network's own, which would change it, are refused."""

    model_config = ConfigDict(extra="ignore")


class Unet(StrictModel):
    """`UNetModel`. The width of a head is `num_head_channels`, or the layer's width over `num_heads`."""

    image_size: Size
    in_channels: Size
    out_channels: Size
    model_channels: Width
    attention_resolutions: Annotated[list[int], Field(max_length=LEVELS)]
    num_res_blocks: Size
    channel_mult: Levels
    num_heads: Heads = None
    num_head_channels: Heads = None
    use_spatial_transformer: bool = False
    transformer_depth: Size = 1
    context_dim: Size | None = None
    dropout: Share = 0.0
    use_checkpoint: bool = False
    legacy: bool = True
    dims: Literal[2] = 2
    num_classes: None = None
    conv_resample: Literal[True] = True
    use_scale_shift_norm: Literal[False] = False
    resblock_updown: Literal[False] = False
    use_new_attention_order: Literal[False] = False
    use_fp16: Literal[False] = False

    @property
    def tensors(self) -> int:
        """The weights' number, at least."""
        places = 2 * self.num_res_blocks + 1  # of a level, on both sides
        attended = sum(2**level in self.attention_resolutions for level in range(len(self.channel_mult)))
        blocks = self.transformer_depth * (attended * places + 1) if self.use_spatial_transformer else 0
        return 10 * places * len(self.channel_mult) + 20 * blocks

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


class Autoencoder(StrictModel):
    """Encoder and decoder, `ddconfig`."""

    z_channels: Size
    resolution: Size
    in_channels: Size
    out_ch: Size
    ch: Width
    ch_mult: Levels
    num_res_blocks: Size
    dropout: Share = 0.0
    attn_resolutions: Annotated[list[int], Field(max_length=0)]
    double_z: Literal[False] = False

    @property
    def tensors(self) -> int:
        """The weights' number, at least."""
        return 8 * (2 * self.num_res_blocks + 1) * len(self.ch_mult)


class Vq(Part):
    """`VQModelInterface`."""

    ddconfig: Autoencoder
    n_embed: Size
    embed_dim: Size


class ClassEmbedder(Part):
    """`ClassEmbedder`. Where the config names `n_classes`, the last one is the null class, as in cin256-v2; the default
    is ImageNet's 1000 classes and none."""

    embed_dim: Size
    n_classes: Size | None = None


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
    timesteps: Size = 1000
    linear_start: Beta = 1e-4
    linear_end: Beta = 2e-2
    beta_schedule: Literal["linear"] = "linear"
    parameterization: Literal["eps"] = "eps"
    conditioning_key: Literal["crossattn"] | None = None
    scale_factor: Annotated[float, Field(gt=0)] = 1.0
    scale_by_std: Literal[False] = False

    @property
    def tensors(self) -> int:
        """The number of its networks' weights, at least: known before any network is built."""
        return self.unet_config.params.tensors + self.first_stage_config.params.ddconfig.tensors

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


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses merge keys (<<), which can double a mapping with every line. No published config has any."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """See the base class."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "it has a merge key (<<)", key.start_mark)


def read_config(path: Path) -> Diffusion:
    """Read a config.

    Raises:
        ConfigError: keys that cannot be converted.
        DistillkitError: the file cannot be read as YAML.
    """
    if path.stat().st_size > LARGEST:
        raise DistillkitError(f"{path}: is no config of a network: it has more than {LARGEST} bytes")
    text = read_text(path)
    try:
        content = yaml.load(text, Loader)
    except RecursionError:
        raise DistillkitError(f"{path}: cannot be read as YAML (it is nested too deep)") from None
    except Exception as error:  # PyYAML leaves a number or a date that is none to Python
        why = short(" ".join(str(error).split()).partition("; use sys.")[0])
        raise DistillkitError(f"{path}: cannot be read as YAML ({why})") from None
    if not isinstance(content, dict):
        raise DistillkitError(f"{path}: must be the config of a CompVis latent diffusion, with `model` at its top")
    try:
        return Config.model_validate(content).model.params
    except ValidationError as error:
        raise ConfigError([_mistake(fault) for fault in error.errors()], str(path)) from None


def _mistake(fault: Any) -> Mistake:
    """An error of pydantic's as a mistake."""
    key, got = ".".join(short(part) for part in fault["loc"]), short(fault["input"], quoted=True)
    if fault["type"] == "missing":
        return Mistake(key, "is required")
    if fault["type"] == "extra_forbidden":
        return Mistake(key, "is not known: the network would not be diffusers'")
    if fault["type"] == "value_error":
        return Mistake(key, str(fault["ctx"]["error"]))
    if fault["type"] == "model_type":
        return Mistake(key, f"must be a mapping with target and params (got {got})")
    if fault["type"] == "too_long":
        most = fault["ctx"]["max_length"]
        return Mistake(key, f"must {f'have at most {most} entries' if most else 'be empty'} (got {got})")
    return Mistake(key, f"{fault['msg'].replace('Input should', 'must')} (got {got})")
