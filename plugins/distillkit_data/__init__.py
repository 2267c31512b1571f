"""Built-in data sets, the source that draws noised data, and plain training."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Data, Source
from distillkit_data.digits import Digits
from distillkit_data.fashion_mnist import FashionMnist
from distillkit_data.images import Images
from distillkit_data.noised_data import NoisedData
from distillkit_data.presets import PRESETS


@hookimpl
def distillkit_data() -> list[type[Data]]:

    return [Digits, FashionMnist, Images]


@hookimpl
def distillkit_sources() -> list[type[Source]]:

    return [NoisedData]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS
