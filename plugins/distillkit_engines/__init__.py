"""Built-in engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Engine


@hookimpl
def distillkit_engines() -> list[type[Engine]]:
    from distillkit_engines.deepspeed_engine import DeepSpeedEngine
    from distillkit_engines.torch_engine import TorchEngine

    return [TorchEngine, DeepSpeedEngine]
