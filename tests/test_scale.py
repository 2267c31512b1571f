"""Two processes train as one does, with every engine. Both run helpers/scale_cases.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.digits import Run
from helpers.scale_cases import METHODS, RUNS
from helpers.scale_states import STATES
from PIL import Image
from safetensors.torch import load_file

# What the first test waits for is all that is done.
pytestmark = pytest.mark.timeout(900)
HERE = Path(__file__).parent
CLOSE = 1e-5
"""Weights are of about unit size and learn at 1e-3 a step, so what one process does otherwise than the other would show
a hundred times as large. Sums in another order change float32's last digits, which Adam, dividing a gradient by its own
size, makes some 1e-6 of; with an ε that gradients which are nothing but such digits do not count beside."""


@dataclass
class Done:
    """The folder that the processes wrote."""

    folder: Path

    def result(self, rank: int = 0) -> Any:
        return json.loads((self.folder / f"rank-{rank}.json").read_text(encoding="utf-8"))


def carry_out(folder: Path, *command: str) -> Done:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, *command, "-m", "helpers.scale_cases", str(folder)],
        cwd=HERE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Done(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A single process, with the engine torch."""
    return carry_out(tmp_path_factory.mktemp("one") / "done")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two, with all engines."""
    return carry_out(tmp_path_factory.mktemp("two") / "done", "-m", "torch.distributed.run", "--nproc-per-node=2")


@pytest.mark.parametrize(("engine", "method"), RUNS)
def test_two_processes_learn_what_one_does(one: Done, two: Done, engine: str, method: str) -> None:
    """Averaged weights, losses and gradients. (That ZeRO-3 keeps its trace, the processes check.)"""
    alone = load_file(one.folder / f"ddp-{method}.safetensors")
    together = load_file(two.folder / f"{engine}-{method}.safetensors")
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=0, atol=CLOSE)
    lines, others = one.result()[f"ddp {method}"], two.result()[f"{engine} {method}"]
    assert len(lines) == len(others) == METHODS_UPDATES[method]
    for line, other in zip(lines, others, strict=True):
        assert other.keys() == line.keys()
        for key in ("loss", "grad_norm", *(key for key in line if key.startswith("loss/"))):
            assert other[key] == pytest.approx(line[key], rel=1e-4)
        assert {key: other[key] for key in SAME} == {key: line[key] for key in SAME}


SAME = ("update", "stage", "steps", "learning_rate", "evaluations")
METHODS_UPDATES = {
    method: next(int(word.removeprefix("run.updates=")) for word in reversed(words) if word.startswith("run.updates="))
    for method, words in METHODS.items()
}


def test_trajectories_do_not_depend_on_who_makes_them(one: Done, two: Done) -> None:
    shards = sorted(one.folder.glob("cached/*/*.safetensors"))
    assert len(shards) == 3
    for shard in shards:
        mine, theirs = load_file(shard), load_file(two.folder / shard.relative_to(one.folder))
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_scores_and_pictures_do_not_depend_on_how_many_draw(one: Done, two: Done) -> None:
    """The teacher is the same to the bit, and so are its scores; the student nearly."""
    rows, others = (json.loads((done.folder / "run/scores.json").read_text(encoding="utf-8")) for done in (one, two))
    assert [row | {"value": 0} for row in rows] == [row | {"value": 0} for row in others]
    assert [row["model"] for row in rows] == ["teacher", "student"]
    assert rows[0]["value"] == others[0]["value"]
    assert rows[1]["value"] == pytest.approx(others[1]["value"], rel=1e-4)
    curves, theirs = ((done.folder / "run/curves.jsonl").read_text(encoding="utf-8") for done in (one, two))
    for line, other in zip(curves.splitlines(), theirs.splitlines(), strict=True):
        assert json.loads(other)["scores"] == pytest.approx(json.loads(line)["scores"], rel=1e-4)
    sheet, other = (np.asarray(Image.open(done.folder / "run/samples/steps-002.png")) for done in (one, two))
    assert np.abs(sheet.astype(int) - other.astype(int)).max() <= 1


def test_export_from_zero_3_is_whole(one: Done, two: Done) -> None:
    """diffusers loads it, and it is what one process exports: the averaged weights, the best of them."""
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(two.folder / "run/pipeline", subfolder="unet")
    expected = Run(one.folder / "run").weights()
    assert {name: weight.shape for name, weight in network.named_parameters()} == {
        name: weight.shape for name, weight in expected.items()
    }
    for name, weight in network.named_parameters():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.detach(), expected[name], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("engine", STATES)
def test_state_goes_on_in_another_engine(two: Done, engine: str) -> None:
    """Bit for bit, in each process: weights, average, moments, numbers of steps."""
    assert [two.result(rank)["states"][engine] for rank in (0, 1)] == [[], []]


# FACTS: bytes per parameter of a process, without an average of the weights; k processes.
# bf16: 2 for weights, 2 for gradients, 12 for float32 weights and two moments; fp32: 4, 4 and 8, and with ZeRO 4 more,
# as DeepSpeed keeps the weights that it steps apart from those that it shows also where both are float32.
K = 2
BYTES = {
    "bf16 0": 16,
    "bf16 1": 4 + 12 / K,
    "bf16 2": 2 + 14 / K,
    "bf16 3": 16 / K,
    "fp32 0": 16,
    "fp32 2": 4 + 16 / K,
    "fp32 3": 20 / K,
    "bf16 1 average": 4 + 16 / K,
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_of_a_process(two: Done, case: str) -> None:
    for rank in (0, 1):
        counted = two.result(rank)["bytes"][case]
        assert counted["measured"] == pytest.approx(BYTES[case], rel=0.05)
        assert counted["reported"] == pytest.approx(BYTES[case], rel=0.001)
