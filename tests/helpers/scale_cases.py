"""Everything that tests/test_scale.py looks at, done by as many processes as there are: alone, or under torchrun.

`python -m helpers.scale_cases FOLDER` in tests/ leaves in FOLDER what the first process found, and the numbers of each.
With ENGINE METHOD behind it, one of RUNS is made and nothing compared: to debug it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from distillkit_engines.deepspeed_engine import DeepSpeedEngine
from distillkit_engines.torch_engine import TorchEngine
from safetensors.torch import save_file
from torch import Tensor, nn

from distillkit import distributed
from distillkit.config import Config
from distillkit.interfaces import EmaTable, Engine, OptimizerTable
from distillkit.training.assemble import load, prepare
from distillkit.training.journal import DivergenceGuard, Journal
from distillkit.training.loop import Position, updates
from distillkit.training.run import run
from helpers.digits import MODEL, PLAIN, SCORED, settings
from helpers.toys import Toy, batch

SAMPLES = 4
"""Of an update's batch, in all processes together."""
ENGINES: dict[str, tuple[str, ...]] = {
    "ddp": ("engine.type='torch'",),
    "fsdp": ("engine.type='torch'", "engine.sharding='fsdp'"),
    **{
        f"zero-{stage}": ("engine.type='deepspeed'", f"engine.zero_stage={stage}", "engine.precision='fp32'")
        for stage in range(3)
    },
    "zero-3": (
        "engine.type='deepspeed'",
        "engine.zero_stage=3",
        "engine.precision='fp32'",
        "engine.config='zero.json'",
    ),
}
SELF = ("dsdi", "schedule.start=4", "source.staggered=true", "run.updates=4")
METHODS: dict[str, tuple[str, ...]] = {
    "self": SELF,
    "accumulated": (*SELF, "optimizer.accumulate=2", "run.updates=2"),
    # Teachers and targets that read the student's weights: at a stage's end, and after each update.
    "frozen": ("pd", "schedule.start=4", "run.updates=4"),
    "average": ("dsd-anchored", "schedule.start=8", "schedule.cycles=1", "run.updates=4", "source.guidance=[1.0, 3.0]"),
    "lora": (*SELF, "student={adapter='lora', rank=2}", "run.updates=3"),
    "noisier": ("dsd-training", "target.type='noisier-step'", "schedule.steps=8", "run.updates=3"),
    "matching": ("matching", "run.updates=4"),
    "cached": ("luhman-cached", "schedule.steps=4", "source.trajectories=7", "source.shard=3", "run.updates=3"),
}
RUNS = [
    *((engine, "self") for engine in ENGINES),
    *(("ddp", method) for method in METHODS if method != "self"),
    *((engine, method) for engine in ("fsdp", "zero-3") for method in ("frozen", "average")),
    *((engine, method) for engine in ("fsdp", "zero-2") for method in ("accumulated", "lora")),
]
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


def learn(folder: Path, engine: str, method: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The averaged weights after a few updates, and the journal."""
    preset, *words = METHODS[method]
    split = f"source.batch={SAMPLES // distributed.world_size()}"
    common = (
        "run.log_every=1",
        "optimizer.learning_rate=1e-3",
        "optimizer.eps=1e-4",
        "optimizer.warmup=0",
        "ema.decay=0.8",
        "engine.device='cpu'",
        split,
    )
    where = (f"source.folder='{folder / 'cache'}'",) if method == "cached" else ()
    made = settings(
        own(folder), preset, *words, *common, *where, *(ENGINES[engine] if distributed.world_size() > 1 else ())
    )
    parts = load(made)
    # As in a run.
    for work in prepare(parts):
        with torch.no_grad(), made.engine.averaged(), made.engine.autocast():
            work()
    traces: set[int] = set()

    place = folder / f"{engine}-{method}.jsonl"
    journal = Journal(place, DivergenceGuard(made.run))
    for line, values in updates(parts, Position(), print):
        journal.add(line, values)
        if line["update"] % made.run.log_every == 0 or line["update"] == parts.updates:
            journal.flush()
        if engine == "zero-3" and distributed.world_size() > 1:
            trace = coordinator(made.engine)._PartitionedParameterCoordinator__submodule_order
            if line["update"] > 2:
                traces.add(id(trace))
            # An evaluation must not be seen in it.
            if line["update"] == 3:
                with made.engine.averaged(), torch.no_grad():
                    parts.student.network(torch.zeros(1, 1, 8, 8), torch.tensor([5]), torch.tensor([1]))
    assert len(traces) <= 1, "the trace was made anew"
    with made.engine.averaged():
        weights = {name: weight.detach().clone() for name, weight in parts.student.network.named_parameters()}
    lines = (
        [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
        if distributed.is_main_process()
        else []
    )
    return weights, lines


def own(folder: Path) -> Path:
    """A folder of this process's."""
    mine = folder / f"process-{distributed.rank()}"
    mine.mkdir(exist_ok=True)
    return mine


def coordinator(engine: Engine) -> Any:
    assert isinstance(engine, DeepSpeedEngine)
    return engine._engine.optimizer.parameter_offload.get_param_coordinator()


class Wide(Toy):
    """Of so many weights that neither padding counts nor the one that lies in two processes' parts."""

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
    """What of the state differs where one engine goes on from another's."""
    first, second = (toy(options, Toy()) for _ in range(2))
    for number in range(3):
        update(first, options, number)
    kept = {key: value.clone() for key, value in first.state_dict().items()}
    second.load_state_dict(kept)
    told = second.state_dict()
    found = [f"loaded {key}" for key, value in kept.items() if not torch.equal(value, told[key])]
    for number in range(3, 6):
        update(first, options, number)
        update(second, options, number)
    told = second.state_dict()
    return found + [key for key, value in first.state_dict().items() if not torch.equal(value, told[key])]


def storages() -> dict[int, int]:
    """Address and bytes of what has come into memory since `gc.freeze`, each counted once."""
    found: dict[int, int] = {}
    for tensor in gc.get_objects():
        if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def state_bytes(folder: Path, stage: int, precision: str, average: bool) -> dict[str, float]:
    """Bytes per parameter of a process, while gradients accumulate; and what the engine says."""
    small = folder / "small.json"
    # Hardly any buffers beside the state.
    zero = {"reduce_bucket_size": 1000, "allgather_bucket_size": 1000, "stage3_param_persistence_threshold": 0}
    small.write_text(json.dumps({"zero_optimization": {**zero, "stage3_prefetch_bucket_size": 0}}), encoding="utf-8")
    distributed.barrier()
    gc.collect()
    # What is there is not counted, and not looked at again, which takes seconds.
    gc.freeze()
    module = Wide()
    options: dict[str, Any] = {"zero_stage": stage, "precision": precision, "config": small}
    count = sum(weight.numel() for weight in module.parameters())
    engine = toy(options, module, average, accumulate=2)
    assert isinstance(engine, DeepSpeedEngine)
    # The moments come with the first update; gradients are there between the next one's batches.
    update(engine, options, 0)
    update(engine, options, 1)
    update(engine, options, 2)
    _ = [weight.grad for weight in module.parameters()]
    gc.collect()
    found = sum(storages().values())
    return {"found": found / count, "said": engine.state_bytes(count, average) / count}


def whole_run(folder: Path) -> None:
    """From the command's function on, with scores before, during and after, and the export."""
    words = ("schedule.start=4", "run.updates=4", "optimizer.learning_rate=1e-3", "optimizer.eps=1e-4", "ema.decay=0.8")
    scored = ("evaluation.samples=21", "evaluation.batch=4", "evaluation.every=2", "evaluation.every_samples=10")
    more = (
        "evaluation.best='steps-2'",
        "evaluation.reference='data'",
        f"source.batch={SAMPLES // distributed.world_size()}",
    )
    engine = ENGINES["zero-3"] if distributed.world_size() > 1 else ()
    run(
        Config.of(settings(own(folder), "dsdi", *words, *scored, *more, *engine, tables=MODEL + PLAIN + SCORED)),
        folder / "run",
    )


def everything(folder: Path) -> None:
    done: dict[str, Any] = {}
    for engine, method in RUNS if distributed.world_size() > 1 else [("ddp", method) for method in METHODS]:
        weights, lines = learn(folder, engine, method)
        done[f"{engine} {method}"] = lines
        if distributed.is_main_process():
            save_file(weights, folder / f"{engine}-{method}.safetensors")
    whole_run(folder)
    if distributed.world_size() > 1:
        done["states"] = {}
        for name, options in STATES.items():
            done["states"][name] = go_on(options)
        done["bytes"] = {}
        for precision, stages in (("bf16", range(4)), ("fp32", (0, 2, 3))):
            for stage in stages:
                done["bytes"][f"{precision} {stage}"] = state_bytes(folder, stage, precision, average=False)
        done["bytes"]["bf16 1 average"] = state_bytes(folder, 1, "bf16", average=True)
    (folder / f"rank-{distributed.rank()}.json").write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    if case := sys.argv[2:]:
        learn(Path(), *case)
    else:
        everything(Path())
