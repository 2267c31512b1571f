"""What an engine is told about the optimiser and the average of the weights: the config's `[optimizer]` and `[ema]`."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Literal

import torch
from pydantic import Field

from distillkit.component import StrictModel

Unit = Annotated[float, Field(ge=0, lt=1)]


class OptimizerTable(StrictModel):
    """`[optimizer]`: AdamW and its learning rate.

    Attributes:
        learning_rate: at the beginning, after the warm-up.
        final_learning_rate: where it falls to by the last update; left out: constant.
        shape: how it falls: half a "cosine", or "linear".
        decay: whether it falls once over the "run", or anew in each "stage" (Salimans & Ho 2022: linear to 0 in each).
        warmup: updates over which it rises linearly from 0.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        weight_decay: decoupled weight decay.
        clip: largest gradient norm; 0: no clipping.
        accumulate: batches per parameter update.
    """

    learning_rate: float = Field(1e-5, gt=0)
    final_learning_rate: float | None = Field(None, ge=0)
    shape: Literal["cosine", "linear"] = "cosine"
    decay: Literal["run", "stage"] = "run"
    warmup: int = Field(0, ge=0)
    betas: tuple[Unit, Unit] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)
    accumulate: int = Field(1, ge=1)

    def learning_rate_at(self, run: tuple[int, int], stage: tuple[int, int]) -> float:
        """The learning rate of an update.

        Args:
            run: its number (from 0) in the run, and the run's updates.
            stage: its number (from 0) in its stage, and the stage's updates.
        """
        peak, final = self.learning_rate, self.final_learning_rate
        if final is not None:
            update, updates = stage if self.decay == "stage" else run
            done = update / updates
            peak = final + (peak - final) * (1 - done if self.shape == "linear" else 0.5 * (1 + cos(pi * done)))
        return peak * min(1.0, (run[0] + 1) / self.warmup) if self.warmup else peak


class EmaTable(StrictModel):
    """`[ema]`: an average of the network's weights over the updates. If present, it is what is evaluated and exported.

    Attributes:
        decay: the average's decay per update.
        warmup: cap the decay at (1 + n)/(10 + n) at update n, as LDM and diffusers do. In a short run the decay is
            then never reached: 0.9995 would take 18 000 updates.
    """

    decay: float = Field(0.999, ge=0, lt=1)
    warmup: bool = False

    def decay_after(self, updates: torch.Tensor) -> torch.Tensor:
        """The decay of the update that follows `updates` others, a scalar in float64 on the device."""
        if self.warmup:
            return ((1 + updates) / (10 + updates)).clamp(max=self.decay)
        return updates.new_full((), self.decay)
