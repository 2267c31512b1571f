"""State of the engines on every rank of several processes: whether another engine resumes from it, and its bytes."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import torch
from distillkit_engines.deepspeed_engine import DeepSpeedEngine
from distillkit_engines.torch_engine import TorchEngine
from torch import Tensor, nn

from distillkit import distributed
from distillkit.interfaces import EmaTable, Engine, OptimizerTable
from helpers.toys import Toy, batch

STATES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"sharding": "fsdp"},
    **{
        f"zero-{stage} {kind}": {"zero_stage": stage, "precision": kind}
        for stage in range(4)
        for kind in ("fp32", "bf16")
    },
    "zero-2 offload": {"zero_stage": 2, "precision": "fp32", "offload": "optimizer"},
    "zero-3 offload": {"zero_stage": 3, "precision": "bf16", "offload": "optimizer"},
}


class Wide(Toy):
    """So many weights that padding, and a weight split between two ranks, make no difference."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(5, 64), *(nn.Linear(64, 64) for _ in range(20)), nn.Linear(64, 3))


def toy(options: dict[str, Any], module: Toy, average: bool = True, accumulate: int = 1) -> Engine:
    kind = DeepSpeedEngine if "zero_stage" in options else TorchEngine
    engine = kind(kind.Options(device="cpu", **options))
    engine.setup()
    ema = EmaTable(decay=0.9, warmup=True) if average else None
    table = OptimizerTable(learning_rate=1e-2, weight_decay=0.1, accumulate=accumulate)
    engine.prepare(module, module.network, table, ema)
    return engine


def update(engine: Engine, options: dict[str, Any], number: int) -> None:
    inputs, goals = (distributed.shard(tensor) for tensor in batch(number))
    if options.get("precision") == "bf16":
        inputs = inputs.bfloat16()
    loss, _ = engine.forward((inputs, goals))
    engine.update(loss, 1e-2)


def go_on(options: dict[str, Any]) -> list[str]:
    """The keys of the state that differ where one engine resumes from another's state."""
    first, second = (toy(options, Toy()) for _ in range(2))
    for number in range(3):
        update(first, options, number)
    kept = {key: value.clone() for key, value in first.state_dict().items()}
    second.load_state_dict(kept)
    loaded = second.state_dict()
    differ = [f"loaded {key}" for key, value in kept.items() if not torch.equal(value, loaded[key])]
    for number in range(3, 6):
        update(first, options, number)
        update(second, options, number)
    trained = second.state_dict()
    differ += [key for key, value in first.state_dict().items() if not torch.equal(value, trained[key])]
    # With moments that begin anew, and in an engine that has never had any.
    first.restart_moments()
    third = toy(options, Toy())
    kept = {key: value.clone() for key, value in first.state_dict().items() if not key.startswith("optimizer.")}
    third.load_state_dict(kept)
    update(first, options, 6)
    update(third, options, 6)
    trained = third.state_dict()
    return differ + [f"anew {key}" for key, value in first.state_dict().items() if not torch.equal(value, trained[key])]


def storages() -> dict[int, int]:
    """Address and bytes of the storages allocated since `gc.freeze`, each counted once."""
    sizes: dict[int, int] = {}
    for tensor in gc.get_objects():
        if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sizes


def state_bytes(folder: Path, stage: int, precision: str, average: bool) -> dict[str, float]:
    """Bytes per parameter on a rank while gradients accumulate: measured, and as the engine reports them."""
    small = folder / "small.json"
    # Hardly any buffers besides the state.
    zero = {"reduce_bucket_size": 1000, "allgather_bucket_size": 1000, "stage3_param_persistence_threshold": 0}
    small.write_text(json.dumps({"zero_optimization": {**zero, "stage3_prefetch_bucket_size": 0}}), encoding="utf-8")
    distributed.any_rank(False)  # as a barrier
    gc.collect()
    # What is allocated already is not counted; looking at it again would take seconds.
    gc.freeze()
    module = Wide()
    options: dict[str, Any] = {"zero_stage": stage, "precision": precision, "config": small}
    count = sum(weight.numel() for weight in module.parameters())
    engine = toy(options, module, average, accumulate=2)
    assert isinstance(engine, DeepSpeedEngine)
    # The first update allocates the moments; gradients exist between the batches of the next one.
    update(engine, options, 0)
    update(engine, options, 1)
    update(engine, options, 2)
    _ = [weight.grad for weight in module.parameters()]
    readings = []
    for _ in range(3):
        gc.collect()
        readings.append(sum(storages().values()))
        time.sleep(0.1)
    # Threads of the backward pass may hold what they used a moment longer.
    measured = min(readings)
    return {"measured": measured / count, "reported": engine.state_bytes(count, average) / count}
