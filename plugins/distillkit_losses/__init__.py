"""Built-in losses: squared errors of x̂, v̂ and ε̂ and the absolute one of x̂, each with a weighting by the noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Loss


@hookimpl
def distillkit_losses() -> list[type[Loss]]:
    from distillkit_losses.absolute import XL1
    from distillkit_losses.squared import EpsMse, VMse, XMse

    return [EpsMse, VMse, XL1, XMse]
