"""Built-in losses: errors of x̂, v̂, û and ε̂, each with a weighting by the noise."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Loss
from distillkit_losses.absolute import XL1
from distillkit_losses.huber import XHuber
from distillkit_losses.squared import EpsMse, FlowMse, VMse, XMse


@hookimpl
def distillkit_losses() -> list[type[Loss]]:

    return [EpsMse, FlowMse, VMse, XHuber, XL1, XMse]
