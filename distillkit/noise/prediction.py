"""A network's conditions, and what its output says about a noisy sample, whichever of ε, v, u and x it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

GUIDANCE = "guidance"
"""What a network's input for the guidance scale is called."""
STEP_SIZE = "step_size"
"""What a network's input for the step size is called."""


@dataclass(frozen=True)
class Condition:
    """One batch's conditions.

    Attributes:
        inputs: the network's extra inputs by name, each [B, ...] (`{"class_labels": [B]}`; empty if unconditional).
        null: the same inputs for "no condition", which classifier-free guidance needs; None if the model has none.
        guidance: guidance scale s per sample, [B], in x̂ = x̂_u + s(x̂_c − x̂_u); s = 1 is no guidance. (Meng et al.
            and LCM write w = s − 1.) None: no guidance, and no second half of the batch.
    """

    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    null: Mapping[str, torch.Tensor] | None = None
    guidance: torch.Tensor | None = None

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Condition:
        """The same with `change` applied to every tensor (moved to a device, part of the batch taken)."""
        return Condition(
            {key: change(value) for key, value in self.inputs.items()},
            None if self.null is None else {key: change(value) for key, value in self.null.items()},
            None if self.guidance is None else change(self.guidance),
        )

    def to(self, device: torch.device) -> Condition:
        """The same conditions on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by name, each [B, ...], to be stored: "inputs.…", "null.…" and "guidance"."""
        found = {f"inputs.{key}": value for key, value in self.inputs.items()}
        found |= {f"null.{key}": value for key, value in (self.null or {}).items()}
        return found if self.guidance is None else found | {"guidance": self.guidance}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Condition:
        """From `tensors`; other names are left alone."""
        inputs, null = (
            {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}
            for part in ("inputs.", "null.")
        )
        return cls(inputs, null or None, tensors.get("guidance"))

    def mixed(self) -> Condition:
        """The same, guided by mixing two predictions: for a network whose input for the scale is not trained yet."""
        return replace(self, guidance=self.inputs[GUIDANCE])


PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What the network's output is: ε, v = αε − σx, x itself (diffusers' names), or flow matching's velocity u = ε − x."""


@dataclass(frozen=True)
class Prediction:
    """The denoised sample x̂ that a network sees in z = αx + σε, and the same seen as ε̂, v̂ and û.

    Attributes:
        z: the noisy samples, [B, C, H, W].
        x0: x̂, [B, C, H, W].
        alpha, sigma: α and σ at the samples' times, [B, 1, 1, 1].
    """

    z: torch.Tensor
    x0: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor

    @property
    def eps(self) -> torch.Tensor:
        """ε̂ = (z − αx̂)/σ, [B, C, H, W]. Not defined at the clean time, where σ = 0."""
        return self.eps_of(self.x0)

    @property
    def v(self) -> torch.Tensor:
        """v̂ = αε̂ − σx̂, [B, C, H, W]. Not defined at the clean time, where σ = 0."""
        return self.v_of(self.x0)

    @property
    def u(self) -> torch.Tensor:
        """û = ε̂ − x̂, [B, C, H, W]: the velocity of flow matching. Not defined at the clean time, where σ = 0."""
        return self.u_of(self.x0)

    def eps_of(self, x0: torch.Tensor) -> torch.Tensor:
        """The ε that goes with another x̂ [B, C, H, W] at the same z and time."""
        return (self.z - self.alpha * x0) / self.sigma

    def v_of(self, x0: torch.Tensor) -> torch.Tensor:
        """The v that goes with another x̂ [B, C, H, W] at the same z and time."""
        return self.alpha * self.eps_of(x0) - self.sigma * x0

    def u_of(self, x0: torch.Tensor) -> torch.Tensor:
        """The u that goes with another x̂ [B, C, H, W] at the same z and time."""
        return self.eps_of(x0) - x0
