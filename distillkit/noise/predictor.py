"""The only way to evaluate a network: it turns any of them into an x̂-predictor, and counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.errors import DistillkitError
from distillkit.noise.condition import Condition
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import Prediction, PredictionType

Forward = Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(network, z [B, C, H, W], t [B], extra inputs) -> the network's raw output [B, C, H, W]."""


@dataclass
class Evaluations:
    """How often networks were evaluated. A network and its copies share one."""

    count: int = 0


class Predictor(nn.Module):
    """(z, t, condition) -> Prediction.

    Args:
        network: the network that is trained or sampled.
        path: its noise path.
        kind: what its output means.
        forward_network: how to call it.

    Raises:
        DistillkitError: it predicts v, and the path does not preserve the variance.
    """

    def __init__(self, network: nn.Module, path: NoisePath, kind: PredictionType, forward_network: Forward) -> None:
        super().__init__()
        if kind == "v_prediction" and not path.variance_preserving:
            raise DistillkitError(
                "the network predicts v = αε − σx, from which x can be read only where α² + σ² = 1, and its noise path "
                f"({type(path).__name__}) is not of that kind; give it a variance-preserving one"
            )
        self.network = network
        self.path = path
        self.kind: PredictionType = kind
        self.evaluations = Evaluations()
        self._forward_network = forward_network

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """Predict x̂ from z [B, C, H, W] at times t [B]. One evaluation, with guidance as well (a batch of 2B)."""
        self.evaluations.count += 1
        output = self._output(z, t, condition)
        return Prediction.from_output(self.kind, output, z, self.path.alpha(t), self.path.sigma(t))

    def _output(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if condition.guidance is None:
            return self._forward_network(self.network, z, t, condition.inputs).float()
        null = condition.null
        if null is None:
            raise ValueError("guidance needs the model's null condition, and this model has none")
        # x̂ is affine in the output at a given z, so mixing outputs is mixing x̂.
        inputs = {key: torch.cat([value, null[key]]) for key, value in condition.inputs.items()}
        both = self._forward_network(self.network, torch.cat([z, z]), torch.cat([t, t]), inputs).float()
        conditional, unconditional = both.chunk(2)
        scale = condition.guidance.view(-1, 1, 1, 1)
        return unconditional + scale * (conditional - unconditional)

    @torch.no_grad()
    def follow(self, other: Predictor, decay: float) -> None:
        """Move the weights towards another's, in place: θ⁻ ← decay·θ⁻ + (1 − decay)·θ, an exponential average."""
        averages: list[Tensor] = list(self.parameters())
        weights: list[Tensor] = list(other.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def copy(self) -> Predictor:
        """A frozen copy with weights of its own, for a teacher. Its evaluations are counted with this one's."""
        twin = Predictor(copy.deepcopy(self.network), self.path, self.kind, self._forward_network)
        twin.requires_grad_(False)
        twin.evaluations = self.evaluations
        return twin.eval()
