"""Built-in data sets, the source that draws noised data, and plain training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Data, Source


@hookimpl
def distillkit_data() -> list[type[Data]]:
    from distillkit_data.digits import Digits
    from distillkit_data.fashion_mnist import FashionMnist
    from distillkit_data.images import Images

    return [Digits, FashionMnist, Images]


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    from distillkit_data.noised_data import NoisedData

    return [NoisedData]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    from distillkit_data.presets import PRESETS

    return PRESETS
