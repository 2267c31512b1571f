"""Runs everything that tests/test_scale.py compares, in one process or in several under torchrun.

`python -m helpers.scale_cases FOLDER`, run in tests/, writes the weights and the numbers of each rank to FOLDER.
`python -m helpers.scale_cases FOLDER ENGINE METHOD` runs one of RUNS alone, to debug it.
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
from safetensors.torch import save_file
from torch import Tensor

from distillkit import distributed
from distillkit.config import Config
from distillkit.interfaces import Engine
from distillkit.training.assemble import load, prepare
from distillkit.training.journal import DivergenceGuard, Journal
from distillkit.training.loop import Position, updates
from distillkit.training.run import run
from helpers.digits import MODEL, PLAIN, SCORED, settings
from helpers.scale_states import STATES, go_on, state_bytes

DATA = Path(__file__).parents[1] / "data"
"""zero.json shards some of the small network's weights and leaves others whole."""
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
        f"engine.config='{DATA / 'zero.json'}'",
    ),
}
SELF = ("dsdi", "schedule.start=4", "source.staggered=true", "run.updates=4")
CRITIC = (
    "dmd",
    "schedule.steps=4",
    "source.levels=[1, 2, 4]",
    "source.level_weights=[1, 1, 1]",
    "source.trajectories=7",
    "critic.warmup=0.1",
    "critic.updates=2",
    "critic.optimizer.eps=1e-4",
)
METHODS: dict[str, tuple[str, ...]] = {
    "self": SELF,
    "accumulated": (*SELF, "optimizer.accumulate=2", "run.updates=2"),
    # Teachers and targets that read the student's weights: at the end of a stage, and after each update.
    "frozen": ("pd", "schedule.start=4", "run.updates=4"),
    "average": ("dsd-anchored", "schedule.start=8", "schedule.cycles=1", "run.updates=4", "source.guidance=[1.0, 3.0]"),
    "lora": (*SELF, "student={adapter='lora', rank=2}", "run.updates=3"),
    "noisier": ("dsd-training", "target.type='noisier-step'", "schedule.steps=8", "run.updates=3"),
    "matching": ("matching", "run.updates=4"),
    "told": ("tsd", *SELF[1:], "model.step_input=true", "student.guidance=baked", "source.guidance=[1.0, 3.0]"),
    "levels": (
        "shortcut",
        "schedule.steps=8",
        "target.stride=2",
        "source.levels=[1, 2, 4]",
        "source.level_weights=[1, 1, 1]",
        "run.updates=4",
    ),
    "critic": (*CRITIC, "run.updates=4"),
    "rollout": (
        "dmd",
        "target.type=none",
        "loss=[{type='distribution-matching'}]",
        "source={type='rollout', levels=[1, 2, 3]}",
        "critic.updates=1",
        "critic.optimizer.eps=1e-4",
        "run.updates=4",
    ),
    "cached": ("luhman-cached", "schedule.steps=4", "source.trajectories=7", "source.shard=3", "run.updates=3"),
}
RUNS = [
    *((engine, "self") for engine in ENGINES),
    *(("ddp", method) for method in METHODS if method != "self"),
    *((engine, method) for engine in ("fsdp", "zero-3") for method in ("frozen", "average", "told", "levels")),
    *((engine, method) for engine in ("fsdp", "zero-2") for method in ("accumulated", "lora", "critic")),
    ("zero-0", "critic"),
    ("zero-3", "critic"),
]


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
    cache = (f"source.folder='{folder / method}'",) if method in ("cached", "critic") else ()
    scaled = ENGINES[engine] if distributed.world_size() > 1 else ()
    components = settings(own(folder), preset, *words, *common, *cache, *scaled).components()
    parts = load(components)
    # As in a run.
    for work in prepare(parts):
        with torch.no_grad(), components.engine.averaged(), components.engine.autocast():
            work()
    traces: set[int] = set()

    file = folder / f"{engine}-{method}.jsonl"
    journal = Journal(file, DivergenceGuard(components.run))
    for line in updates(parts, Position(), print):
        journal.write([line])
        update = line.values["update"]
        if engine == "zero-3" and distributed.world_size() > 1:
            trace = coordinator(components.engine)._PartitionedParameterCoordinator__submodule_order
            if update > 2:
                traces.add(id(trace))
            # An evaluation must not appear in it.
            if update == 3:
                with components.engine.averaged(), torch.no_grad():
                    one = components.model.condition(torch.tensor([1]), 1)
                    parts.student(torch.zeros(1, 1, 8, 8), torch.tensor([5]), one, torch.ones(1))
    # A critic is another network between the student's.
    assert len(traces) <= 1 or method == "critic", "ZeRO recorded a new trace"
    with components.engine.averaged():
        weights = {name: weight.detach().clone() for name, weight in parts.student.network.named_parameters()}
    lines = file.read_text(encoding="utf-8").splitlines() if distributed.is_main_process() else []
    return weights, [json.loads(line) for line in lines]


def own(folder: Path) -> Path:
    """A folder of this process's."""
    mine = folder / f"process-{distributed.rank()}"
    mine.mkdir(exist_ok=True)
    return mine


def coordinator(engine: Engine) -> Any:
    assert isinstance(engine, DeepSpeedEngine)
    return engine._engine.optimizer.parameter_offload.get_param_coordinator()


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
    # ZeRO-3 collects garbage several times for each engine, and would look at all that was imported.
    gc.freeze()
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
