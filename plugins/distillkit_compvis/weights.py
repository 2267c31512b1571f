"""Loads the weights of a checkpoint into diffusers' networks, and checks that none is missing or left over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distillkit.errors import DistillkitError
from distillkit_compvis.checkpoint import short

QUERIES_KEYS_VALUES = ("to_q.", "to_k.", "to_v.")


@dataclass(frozen=True)
class Origin:
    """The origin of a weight of diffusers' in a checkpoint.

    Attributes:
        name: the name of the tensor in CompVis' network.
        third: the third of a tensor that has queries (0), keys (1) and values (2); None for the whole tensor.
        head: the width of an attention head in such a tensor; None if there is one head.
    """

    name: str
    third: int | None = None
    head: int | None = None

    def size(self, shape: torch.Size) -> list[int]:
        """The size of the tensor, without ones at the end: they alone distinguish a 1×1 convolution from a matrix."""
        return without_ones([shape[0] if self.third is None else 3 * shape[0], *shape[1:]])

    def take(self, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The weight, in float32 and with diffusers' shape, from the tensor."""
        if self.third is not None:
            # Rows are ordered by head, and within a head by queries, keys and values.
            tensor = tensor.reshape(-1, 3, self.head or shape[0], *tensor.shape[1:])[:, self.third]
        return tensor.reshape(shape).float().clone()


@dataclass(frozen=True)
class Naming:
    """Maps a name of diffusers' to its origin.

    Attributes:
        blocks: prefixes of blocks, diffusers' -> CompVis'.
        inside: prefixes of layers within a block, diffusers' -> CompVis'.
        joined: CompVis' prefix of a layer that makes queries, keys and values at once; None if there is none.
        head: the width of an attention head in it; None if there is one head.
    """

    blocks: Mapping[str, str]
    inside: Mapping[str, str]
    joined: str | None = None
    head: int | None = None

    def __call__(self, name: str) -> Origin:
        """The origin of the weight of this name."""
        block = next((block for block in self.blocks if name.startswith(block)), "")
        start, rest = self.blocks.get(block, ""), name.removeprefix(block)
        if self.joined is not None:
            for third, layer in enumerate(QUERIES_KEYS_VALUES):
                if rest.startswith(layer):
                    return Origin(start + self.joined + rest.removeprefix(layer), third, self.head)
        layer = next((layer for layer in self.inside if rest.startswith(layer)), "")
        return Origin(start + self.inside.get(layer, "") + rest.removeprefix(layer))


def without_ones(shape: Iterable[int]) -> list[int]:
    """A size without the ones at its end."""
    sizes = [*shape]
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return sizes


UNET = "model.diffusion_model."
AVERAGE = "model_ema."
TRAINING = (
    "betas", "alphas_cumprod", "sqrt_alphas", "sqrt_one_minus", "sqrt_recip", "log_one_minus", "posterior_", "logvar",
    "lvlb_weights", "first_stage_model.loss.", AVERAGE,
)  # fmt: skip
"""Prefixes of other tensors of a checkpoint: the noise schedule, a discriminator, and the running average."""


MUCH = 4
"""A network with so many times the checkpoint's tensors is not built, only to say which of them are missing."""


@dataclass
class Weights:
    """A checkpoint's tensors by name.

    Attributes:
        state: the tensors.
        ema: whether the U-Net gets the running average.
        used: the names that networks needed.
        missing: those of them that the checkpoint does not have.
        misshapen: those that have another size.
        unusable: those that are no plain tensors of real numbers.
        found: for each network its weights' names, and of each the tensor's name and origin.
    """

    state: Mapping[str, torch.Tensor]
    ema: bool
    used: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    found: list[tuple[torch.nn.Module, dict[str, tuple[str, Origin]]]] = field(default_factory=list)

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], ema: bool) -> Weights:
        """The weights of a checkpoint; with `ema` the running average, if there is one."""
        return cls(state, ema and any(name.startswith(f"{AVERAGE}diffusion_model") for name in state))

    def fill(self, network: torch.nn.Module, prefix: str, origin: Callable[[str], Origin]) -> None:
        """Find a network's weights, for `load`.

        Args:
            network: on the "meta" device.
            prefix: the prefix of its weights in the checkpoint.
            origin: maps the name of a weight to its origin.
        """
        found = {}
        for name, weight in network.state_dict().items():
            where = origin(name)
            key = prefix + where.name
            self.used.add(key)
            if self.ema and prefix == UNET:
                # LitEma names a buffer like the parameter, without the dots.
                key = AVERAGE + key.removeprefix("model.").replace(".", "")
            tensor = self.state.get(key)
            if tensor is None:
                self.missing.append(key)
            elif (what := _other_kind(tensor)) is not None:
                self.unusable.append(f"{key} is {what}")
            elif (size := without_ones(tensor.shape)) != (wanted := where.size(weight.shape)):
                self.misshapen.append(f"{key} is {size}, not {wanted}")
            else:
                found[name] = key, where
        self.found.append((network, found))

    def load(self, checkpoint: Path) -> None:
        """Load the networks' weights, which `check` has found to be there.

        Raises:
            DistillkitError: some are not finite. The message names `checkpoint`.
        """
        for network, found in self.found:
            shapes = {name: weight.shape for name, weight in network.state_dict().items()}
            weights = {name: where.take(self.state[key], shapes[name]) for name, (key, where) in found.items()}
            if bad := [found[name][0] for name, weight in weights.items() if not weight.isfinite().all()]:
                raise DistillkitError(
                    f"{checkpoint}: has weights that are not finite: {_some(bad)}; give another checkpoint of the "
                    f"training{', or take the weights themselves with --no-ema' if self.ema else ''}"
                )
            network.load_state_dict(weights, assign=True)

    def check_size(self, tensors: int, checkpoint: Path, config: Path) -> None:
        """Check that the networks are not larger than the checkpoint by far, before they are built.

        Args:
            tensors: the number of their weights, at least.
            checkpoint, config: the files, for the message.

        Raises:
            DistillkitError: they are.
        """
        if tensors > MUCH * len(self.state):
            raise _does_not_fit(
                checkpoint, config, f"it has {len(self.state)} tensors, and the config's networks at least {tensors}"
            )

    def check(self, betas: torch.Tensor, checkpoint: Path, config: Path) -> None:
        """Check that the weights are there, and no others, and that the noise schedule is the config's.

        Args:
            betas: the config's noise schedule, [T].
            checkpoint, config: the files, for the message.

        Raises:
            DistillkitError: otherwise.
        """
        left = [name for name in self.state if name not in self.used and not name.startswith(TRAINING)]
        faults = []
        if self.missing:
            faults.append(f"it has no {_some(self.missing)}")
        if left:
            faults.append(f"it has {_some(left)}, which the config's networks do not have")
        if self.misshapen:
            faults.append(f"sizes differ from the config's: {_some(self.misshapen)}")
        if self.unusable:
            faults.append(f"not all are plain tensors of real numbers: {_some(self.unusable)}")
        weights = sum(weight.numel() for network, _ in self.found for weight in network.state_dict().values())
        if not faults and 2 * weights > (size := checkpoint.stat().st_size):
            faults.append(f"the config's networks have {weights} weights, and the file {size} bytes")
        theirs = self.state.get("betas", betas)
        if (what := _other_kind(theirs)) is not None:
            faults.append(f"betas is {what}")
        elif theirs.shape != betas.shape or not torch.allclose(theirs.float(), betas, rtol=1e-3):
            faults.append(f"its noise schedule is {_schedule(theirs)}, the config's {_schedule(betas)}")
        if faults:
            raise _does_not_fit(checkpoint, config, "; ".join(faults))


def _does_not_fit(checkpoint: Path, config: Path, why: str) -> DistillkitError:
    return DistillkitError(f"{checkpoint} was not made with {config}: {why}. Give the config that came with it")


def _other_kind(tensor: torch.Tensor) -> str | None:
    """What a tensor is that does not hold real numbers one by one; None if it does."""
    if tensor.layout != torch.strided:
        return "sparse or nested"
    if tensor.is_meta:
        return "without values"
    if tensor.is_quantized:
        return "quantized"
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"of {tensor.dtype}"
    return None


def _some(names: Iterable[str]) -> str:
    """The first few of many names, each once."""
    each = [short(name) for name in dict.fromkeys(names)]
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "")


def _schedule(betas: torch.Tensor) -> str:
    """A noise schedule in words."""
    if betas.dim() != 1 or not len(betas):
        return f"of size {[*betas.shape]}"
    return f"{len(betas)} times from β = {betas[0]:.4g} to {betas[-1]:.4g}"
