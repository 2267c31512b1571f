"""DeepSpeed in one process, which no launcher has started: updates that are not finite change nothing.

Prints what they changed, stage by stage.
"""

from __future__ import annotations

import json
from math import inf, nan

import torch
from distillkit_engines.deepspeed_engine import DeepSpeedEngine

from distillkit.interfaces import EmaTable, OptimizerTable, Update
from helpers.toys import Toy, batch

COUNTER = "scaler.cur_iter"
"""Counts attempts."""


def made(engine: DeepSpeedEngine, update: int, factor: float = 1.0, more: float = 0.0) -> Update:
    inputs, goals = batch(update)
    loss, _ = engine.forward((inputs.to(engine._dtype), goals))
    found = engine.update(loss * factor + more, 1e-2)
    assert found is not None
    return found


def main() -> None:
    found = {}
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            module = Toy()
            options = DeepSpeedEngine.Options(device="cpu", precision=precision, zero_stage=stage)
            engine = DeepSpeedEngine(options)
            engine.setup()
            engine.prepare(module, module.network, OptimizerTable(learning_rate=1e-2), EmaTable(decay=0.9))
            first = made(engine, 0).made
            before = {key: value.clone() for key, value in engine.state_dict().items() if key != COUNTER}
            spoiled = [made(engine, 1, nan).made, made(engine, 1, more=inf).made]
            after = engine.state_dict()
            changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
            told = [value.item() for value in (first, *spoiled, made(engine, 2).made) if value is not None]
            found[f"{stage} {precision}"] = [told, changed]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
