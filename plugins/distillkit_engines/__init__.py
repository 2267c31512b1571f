"""Built-in engines."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Engine
from distillkit_engines.deepspeed_engine import DeepSpeedEngine
from distillkit_engines.torch_engine import TorchEngine


@hookimpl
def distillkit_engines() -> list[type[Engine]]:
    return [TorchEngine, DeepSpeedEngine]
