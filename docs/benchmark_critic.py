"""Times an update with a critic beside what it consists of, for docs/benchmarks.md: `python docs/benchmark_critic.py`.

A round is one update of the preset dmd, as a run makes it, and then the same evaluations, backward passes, clipping,
AdamW steps and average in plain torch, on a copy of the networks and the same batch. The ratio of their times is taken
within a round. On a CPU, the times are those that the process has computed for, which other processes do not lengthen.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from distillkit.config import read_config
from distillkit.interfaces import JumpBatch
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.loop import Position, updates

CONFIG = """
preset = "dmd"
[model]
type = "fashion"
[source]
batch = 16
trajectories = 64
[critic]
warmup = 0.0
[tracker]
type = "none"
"""


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that it takes."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


class ByHand:
    """The evaluations and updates of `dmd`, and nothing else.

    Args:
        parts: of the run, whose networks are copied.
    """

    def __init__(self, parts: Parts) -> None:
        components, critic = parts.components, parts.components.critic
        assert critic is not None
        self._call, self._autocast = parts.student.forward_network, components.engine.autocast
        self._student, self._critic = copy.deepcopy(parts.student.network), copy.deepcopy(critic.network)
        self._teacher = copy.deepcopy(parts.student.network).requires_grad_(False)
        self._average = [weight.detach().clone() for weight in self._student.parameters()]
        self._steps = [
            torch.optim.AdamW(network.parameters(), lr=1e-5, betas=(0.0, 0.98), fused=True)
            for network in (self._student, self._critic)
        ]
        self._updates = critic.options.updates

    def update(self, jumps: JumpBatch) -> None:
        """One update, all of whose evaluations are of the batch as it is."""
        inputs = jumps.condition.inputs
        if jumps.step_size is not None:
            inputs = {**inputs, "step_size": jumps.step_size}
        with self._autocast():
            output = self._call(self._student, jumps.z, jumps.times[0], inputs)
            with torch.no_grad():
                for network in (self._teacher, self._critic):
                    self._call(network, jumps.z, jumps.times[0], inputs)
        self._step(output, 0)
        with torch.no_grad():
            torch._foreach_lerp_(self._average, list(self._student.parameters()), 0.02)
        for _ in range(self._updates):
            with self._autocast():
                output = self._call(self._critic, jumps.z, jumps.times[0], inputs)
            self._step(output, 1)

    def _step(self, output: torch.Tensor, which: int) -> None:
        output.float().square().mean().backward()
        torch.nn.utils.clip_grad_norm_((self._student, self._critic)[which].parameters(), 1.0)
        self._steps[which].step()
        self._steps[which].zero_grad()


def main() -> None:
    """Print the table's row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], help="as of distillkit run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary, "dmd.toml")
        config.write_text(CONFIG)
        words = [f"run.updates={given.rounds + 1}", f"source.folder={temporary}/trajectories", *given.set]
        parts = load(read_config(config, words).phases[0].components())
        for work in prepare(parts):
            with torch.no_grad():
                work()
        source, device = parts.components.source, parts.components.engine.device
        by_hand, drawn, draw = ByHand(parts), [], source.draw

        def drawing(generator: torch.Generator) -> JumpBatch:
            drawn.append(draw(generator))
            return drawn[-1]

        source.draw = drawing  # type: ignore[method-assign]
        made = updates(parts, Position(), print)
        rounds = []
        for _ in range(given.rounds + 1):
            one = timed(lambda: next(made), device)
            batch = drawn[-1].to(device)
            rounds.append((one, timed(lambda batch=batch: by_hand.update(batch), device)))
    rounds = rounds[1:]  # the first allocates, and is checked
    whole, sum_of_parts = (median(times) for times in zip(*rounds, strict=True))
    ratio = median(one / other for one, other in rounds)
    print("| update | by hand | ratio |\n|---|---|---|")
    print(f"| {1000 * whole:.0f} ms | {1000 * sum_of_parts:.0f} ms | {ratio:.3f} |")


if __name__ == "__main__":
    main()
