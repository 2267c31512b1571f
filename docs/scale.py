"""Writes the table of memory in docs/scale.md: arithmetic, by the engines' own estimates.

python docs/scale.py
"""

from __future__ import annotations

import os

from distillkit_engines.deepspeed_engine import DeepSpeedEngine
from distillkit_engines.torch_engine import TorchEngine

from distillkit.interfaces import Engine

TEACHERS = {"CelebA-HQ, LSUN Bedroom": 274_060_000, "ImageNet (cin256-v2)": 400_920_000}
"""Parameters of the paper's networks."""
PROCESSES = (1, 8, 64)
ENGINES: dict[str, Engine] = {
    "`torch`, DDP": TorchEngine(TorchEngine.Options()),
    "`torch`, FSDP2": TorchEngine(TorchEngine.Options(sharding="fsdp")),
    **{
        f"`deepspeed`, bf16, ZeRO-{stage}": DeepSpeedEngine(DeepSpeedEngine.Options(zero_stage=stage, precision="bf16"))
        for stage in (0, 1, 2, 3)
    },
}


def table() -> str:
    """Gigabytes of a process, with an average of the weights."""
    head = ["network", "engine", *(f"{count} process{'es' * (count > 1)}" for count in PROCESSES)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, parameters in TEACHERS.items():
        for label, engine in ENGINES.items():
            cells = [f"{gigabytes(engine, parameters, count):.2f}" for count in PROCESSES]
            lines.append(f"| {' | '.join([name, label, *cells])} |")
    return "\n".join(lines)


def gigabytes(engine: Engine, parameters: int, processes: int) -> float:
    """What a process holds of the state, in 10⁹ bytes."""
    os.environ["WORLD_SIZE"] = str(processes)
    try:
        return engine.state_bytes(parameters, average=True) / 1e9
    finally:
        del os.environ["WORLD_SIZE"]


if __name__ == "__main__":
    print(table())
