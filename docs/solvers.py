"""Scores the undistilled bundled teacher with a better solver than DDIM: `python docs/solvers.py [--samples 500]`.

The scheduler is diffusers' DPMSolverMultistepScheduler: DPM-Solver++(2M) at Karras' noise levels. Noise, classes,
features, reference and precision are those of configs/quickstart.toml, so that the scores stand beside the README's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch

from distillkit.cli.pipeline import load_model, make_predictor
from distillkit.config import read_scoring
from distillkit.config.read import tables_in
from distillkit.evaluation import Evaluator, Pictures, to_uint8
from distillkit.noise import Predictor
from distillkit.sampling import noise_for

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "plugins" / "distillkit_fashion" / "teacher"


class StockPictures(Pictures):
    """The pictures that a stock scheduler makes of the same noise and classes."""

    def draw(self, predictor: Predictor, steps: int, indices: Sequence[int], **_: object) -> torch.Tensor:
        """Uint8 pictures [len(indices), C, H, W]."""
        spec = self._model.spec
        condition = self._model.condition(torch.tensor([i % spec.classes for i in indices]), len(indices))
        written = json.loads((TEACHER / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        scheduler = diffusers.DPMSolverMultistepScheduler.from_config(written, solver_order=2, use_karras_sigmas=True)
        scheduler.set_timesteps(steps)
        z = noise_for(self._evaluation.seed, indices, spec.sample_shape, 0) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            with torch.no_grad(), self._autocast():
                output = self._model.forward(predictor.network, z, t.expand(len(indices)), condition.inputs)
            # A scheduler's state has the precision of what the network gives it.
            z = scheduler.step(output.float(), t, z).prev_sample
        return to_uint8(self._model.decode(z))


def main() -> None:
    """Print a row of the README's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500, help="pictures for each score")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16], help="numbers of steps")
    given = parser.parse_args()
    model = load_model(TEACHER)
    scoring = read_scoring(tables_in(ROOT / "configs" / "quickstart.toml"), "quickstart")
    predictor, scoring = make_predictor(model, model.spec.path, scoring)
    evaluator = Evaluator(scoring, model, scoring.engine.device, scoring.engine.autocast)
    evaluator.pictures = StockPictures(scoring.evaluation, model, scoring.engine.device, scoring.engine.autocast)
    for steps in given.steps:
        for label, value in evaluator.score(predictor, steps, given.samples).items():
            print(f"{label}, {given.samples} samples, {steps} steps: {value:.1f}", flush=True)


if __name__ == "__main__":
    main()
