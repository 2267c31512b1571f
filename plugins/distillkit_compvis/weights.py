"""The weights of a checkpoint, given to diffusers' networks one by one, until none is missing and none is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distillkit.errors import DistillkitError
from distillkit_compvis.naming import Origin, without_ones

UNET = "model.diffusion_model."
AVERAGE = "model_ema."
TRAINING = (
    "betas", "alphas_cumprod", "sqrt_alphas", "sqrt_one_minus", "sqrt_recip", "log_one_minus", "posterior_", "logvar",
    "lvlb_weights", "first_stage_model.loss.", AVERAGE,
)  # fmt: skip
"""How what is in a checkpoint besides its networks begins: the noise schedule, a discriminator, and the average."""


@dataclass
class Weights:
    """A checkpoint's tensors by name.

    Attributes:
        state: the tensors.
        ema: whether the U-Net's weights are taken from the running average.
        used: the names that networks asked for.
        missing: those of them that are not there.
        misshapen: those that are of another size.
    """

    state: Mapping[str, torch.Tensor]
    ema: bool
    used: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], ema: bool) -> Weights:
        """Those of a checkpoint; the running average if `ema` says so and there is one."""
        return cls(state, ema and any(name.startswith(f"{AVERAGE}diffusion_model") for name in state))

    def fill(self, network: torch.nn.Module, prefix: str, origin: Callable[[str], Origin]) -> None:
        """Give a network its weights.

        Args:
            network: on the "meta" device.
            prefix: what its weights' names begin with in the checkpoint.
            origin: from one of its weights' names to what CompVis' network has.
        """
        weights = {}
        for name, weight in network.state_dict().items():
            where = origin(name)
            key = prefix + where.name
            self.used.add(key)
            if self.ema and prefix == UNET:
                # LitEma names a buffer after the parameter, without its dots.
                key = AVERAGE + key.removeprefix("model.").replace(".", "")
            tensor = self.state.get(key)
            if tensor is None:
                self.missing.append(key)
            elif (found := without_ones(tensor.shape)) != (wanted := where.size(weight.shape)):
                self.misshapen.append(f"{key} is {found}, not {wanted}")
            else:
                weights[name] = where.take(tensor, weight.shape)
        if not self.missing and not self.misshapen:
            network.load_state_dict(weights, assign=True)

    def check(self, betas: torch.Tensor, checkpoint: Path, config: Path) -> None:
        """All weights that networks asked for were there, nothing is left over, and the noise schedule is the same.

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
            faults.append(f"it has {_some(left)}, which the config has no place for")
        if self.misshapen:
            faults.append(f"sizes are others than the config's: {_some(self.misshapen)}")
        theirs = self.state.get("betas", betas).reshape(-1)
        if theirs.shape != betas.shape or not torch.allclose(theirs.float(), betas, rtol=1e-3):
            faults.append(f"its noise schedule is {_schedule(theirs)}, the config's {_schedule(betas)}")
        if faults:
            raise DistillkitError(
                f"{checkpoint} was not made with {config}: {'; '.join(faults)}. Give the config that came with it"
            )


def _some(names: Iterable[str]) -> str:
    """The first few of many names, each once."""
    each = [*dict.fromkeys(names)]
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "")


def _schedule(betas: torch.Tensor) -> str:
    return f"{len(betas)} times from β = {betas[0]:.4g} to {betas[-1]:.4g}"
