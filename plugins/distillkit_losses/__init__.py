"""Built-in losses: errors of x̂, v̂, û and ε̂, each with a weighting by the noise."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Loss
from distillkit_losses.losses import XL1, EpsMse, FlowMse, VMse, XHuber, XMse


@hookimpl
def distillkit_losses() -> list[type[Loss]]:
    return [EpsMse, FlowMse, VMse, XHuber, XL1, XMse]
