"""Evaluates networks: reads the output of any of them as x̂, and counts evaluations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch

from distillkit.errors import DistillkitError
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import STEP_SIZE, Condition, Prediction, PredictionType

Forward: TypeAlias = "Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]"
"""(network, z [B, C, H, W], t [B], extra inputs) -> the network's raw output [B, C, H, W]."""


def read_x0(
    kind: PredictionType, output: torch.Tensor, z: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """x̂ [B, C, H, W] from a network's raw output (Salimans & Ho 2022, section 4 and appendix D; u: Esser et al. 2024).

    For v the path must be variance-preserving (α² + σ² = 1). As z = αx + σ(u + x), x̂ = (z − σu)/(α + σ).
    """
    if kind == "epsilon":
        return (z - sigma * output) / alpha
    if kind == "v_prediction":
        return alpha * z - sigma * output
    if kind == "flow":
        return (z - sigma * output) / (alpha + sigma)
    return output


@dataclass
class Evaluations:
    """Number of evaluations. A predictor and its copies share one counter."""

    count: int = 0


class Predictor:
    """Calls a network: (z, t, condition) -> Prediction.

    Weights that require no gradient when the predictor is made are never trained, as those under an adapter. Its copies
    share them, and its `state_dict` leaves them out.

    Args:
        network: the network that is trained or sampled.
        path: its noise path.
        kind: prediction type: what the network's output means.
        forward_network: calls the network.
        step_input: whether the network takes the step size, as the input "step_size" [B].
        place_copy: `Engine.place_copy`, which `frozen_copy` calls on each copy; None to leave copies as they are.
        unsharded: `Engine.unsharded`.

    Raises:
        DistillkitError: the network predicts v, and the path does not preserve the variance.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        path: NoisePath,
        kind: PredictionType,
        forward_network: Forward,
        *,
        step_input: bool = False,
        place_copy: Callable[[Predictor], None] | None = None,
        unsharded: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if kind == "v_prediction" and not path.variance_preserving:
            raise DistillkitError(
                "the network predicts v = αε − σx, from which x can be read only where α² + σ² = 1, and its noise path "
                f"({type(path).__name__}) is not of that kind; give it a variance-preserving one"
            )
        # The name that the network has in `DistillStep`, too.
        self.module = torch.nn.ModuleDict({"network": network})
        self.path = path
        self.kind: PredictionType = kind
        self.evaluations = Evaluations()
        self._precise: list[torch.Tensor] | None = None
        self.forward_network = forward_network
        self.step_input = step_input
        self._place_copy = place_copy
        self._unsharded = unsharded
        self._shared = {name for name, weight in network.named_parameters() if not weight.requires_grad}

    @property
    def network(self) -> torch.nn.Module:
        """The network, or the unsharded copy that an engine has put in its place."""
        return self.module["network"]

    def __call__(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None = None
    ) -> Prediction:
        """Predict x̂ from z [B, C, H, W] at times t [B]. One evaluation, with guidance as well (a batch of 2B).

        Args:
            z, t, condition: the noisy samples, their times and conditions.
            step_size: the size of the step that the prediction is for, as a share of the trajectory (1/N on a grid of
                N steps), [B], in (0, 1]. Networks without such an input never see it.

        Raises:
            ValueError: the network takes the step size, and is not told it; or there is no null condition for guidance.
        """
        output = self.output(z, t, condition, step_size)
        alpha, sigma = self.path.alpha_sigma(t)
        return Prediction(z, read_x0(self.kind, output, z, alpha, sigma), alpha, sigma)

    def output(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The network's output [B, C, H, W] as it is (ε, v, u or x), with guidance; as for a prediction of x̂."""
        self.evaluations.count += 1
        guidance, null = condition.guidance, condition.null
        inputs = condition.inputs
        if guidance is not None:
            if null is None:
                raise ValueError("guidance needs the model's null condition, and this model has none")
            z, t = torch.cat([z, z]), torch.cat([t, t])
            inputs = {key: torch.cat([value, null[key]]) for key, value in inputs.items()}
        if self.step_input:
            if step_size is None:
                raise ValueError("the network takes the step size, and is not told it")
            inputs = {**inputs, STEP_SIZE: step_size if guidance is None else step_size.repeat(2)}
        # In the network's precision, but for what is a number for each sample: times, guidance scales, step sizes.
        dtype = next(self.network.parameters()).dtype
        inputs = {
            key: value.to(dtype) if value.is_floating_point() and value.dim() > 1 else value
            for key, value in inputs.items()
        }
        output = self.forward_network(self.network, z.to(dtype), t, inputs).float()
        if guidance is None:
            return output
        # x̂ is affine in the output at a given z, so mixing outputs is mixing x̂.
        conditional, unconditional = output.chunk(2)
        return unconditional + guidance.view(-1, 1, 1, 1) * (conditional - unconditional)

    def unsharded(self) -> AbstractContextManager[Any]:
        """Inside, all weights can be read in every process, also if an engine shards them. Collective."""
        return self._unsharded()

    def ema_update(self, other: Predictor, decay: float, made: torch.Tensor) -> None:
        """Move the weights towards another's, in place: θ⁻ ← decay·θ⁻ + (1 − decay)·θ, an exponential moving average.

        In 16 bits, an update is smaller than the rounding error. The average of 16-bit weights is kept in float32, and
        the weights are rounded from it.

        Args:
            other: the predictor to average, with weights θ.
            decay: per update, in [0, 1].
            made: `Update.made`, a scalar of 1 or 0; with 0 nothing changes.
        """
        with torch.no_grad(), other.unsharded():
            pairs = zip(self.network.parameters(), other.network.parameters(), strict=True)
            mine, theirs = zip(*[(one, two) for one, two in pairs if one is not two], strict=True)
            averages = list(mine)
            if mine[0].dtype != torch.float32:
                if self._precise is None:
                    self._precise = [weight.float() for weight in mine]
                averages = self._precise
            share = made * (1 - decay)
            torch._foreach_lerp_(averages, [weight.float() for weight in theirs], [share] * len(averages))
            if averages is self._precise:
                torch._foreach_copy_(list(mine), averages)

    def frozen_copy(self) -> Predictor:
        """A frozen copy of the network as it is now, on the engine's device.

        The copy has its own trained weights and shares those that are never trained. Its evaluations are counted with
        this one's.
        """
        twin = self._copy()
        twin.network.requires_grad_(False)
        if self._place_copy is not None:
            self._place_copy(twin)
        return twin

    def trained_copy(self) -> Predictor:
        """A copy of the network as it is now, whose own weights are trained, as those of a critic.

        It shares with this one, and counts with it, what a frozen copy does. An engine places its weights.
        """
        return self._copy()

    def _copy(self) -> Predictor:
        weights = dict(self.network.named_parameters())
        # What deepcopy finds here it takes as it is.
        shared = {id(weights[name]): weights[name] for name in self._shared}
        network = copy.deepcopy(self.network, shared).eval()
        twin = Predictor(
            network,
            self.path,
            self.kind,
            self.forward_network,
            step_input=self.step_input,
            place_copy=self._place_copy,
        )
        twin._shared = self._shared
        twin.evaluations = self.evaluations
        return twin

    def to(self, device: torch.device) -> Self:
        """Move the network."""
        self.network.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Trained weights and buffers, by name. Weights that are rounded from a float32 average are that average."""
        state = {name: value.detach() for name, value in self.own().items()}
        if self._precise is not None:
            state |= zip(self._trained(), self._precise, strict=True)
        return {f"network.{name}": value for name, value in state.items()}

    def own(self) -> dict[str, torch.Tensor]:
        """The network's weights and buffers, by its names, without those that it shares with its copies."""
        state: dict[str, torch.Tensor] = self.network.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if name not in self._shared}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned. The names must match exactly."""
        own = {name.removeprefix("network."): value for name, value in state.items()}
        trained = self._trained()
        # The weights are rounded from a float32 average.
        rounded = bool(trained) and all(name in own and own[name].dtype != trained[name].dtype for name in trained)
        self._precise = [own[name].to(trained[name].device, copy=True) for name in trained] if rounded else None
        weights = dict(self.network.named_parameters())
        self.network.load_state_dict(own | {name: weights[name] for name in self._shared})

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: weight for name, weight in self.network.named_parameters() if name not in self._shared}
