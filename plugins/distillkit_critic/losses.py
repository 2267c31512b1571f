"""Losses that compare two diffusion models' views of the student's samples.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from distillkit.interfaces import JumpBatch, Loss
from distillkit.noise import Prediction
from distillkit_critic.fake_score import Scores


class ScoreLoss(Loss):
    """A loss that reads the scores of a critic."""

    reads = "scores"

    class Options(Loss.Options):
        """
        Attributes:
            against: always the "critic".
        """

        against: Literal["target", "data", "critic"] = "critic"

    options: Options


class DistributionMatching(ScoreLoss):
    """½‖x̂ − sg(x̂ − g)‖² with g = (x̂_ψ − x̂_T)/mean|x̂ − x̂_T| (Yin et al. 2024, "DMD", equations 7 and 8).

    The gradient with respect to the student's x̂ is g/(C·H·W), whatever the loss itself is: the direction in which the
    student's distribution, as the critic ψ sees it, becomes the teacher's. Where a jump lands on noise, it is that of
    the landing, as x̂ moves it by a positive factor.
    """

    name = "distribution-matching"

    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: Scores) -> torch.Tensor:
        """The loss, [B]."""
        with torch.no_grad():
            distance = _mean((student.x0 - goal.teacher.x0).abs())
            gradient = (goal.critic.x0 - goal.teacher.x0) / distance.view(-1, 1, 1, 1)
            aim = student.x0 - gradient
        return 0.5 * _mean((student.x0 - aim).square())


class ScoreIdentity(ScoreLoss):
    """(x̂_T − x̂_ψ)·((x̂_T − x) − a(x̂_T − x̂_ψ))/mean|x − x̂_T| (Zhou et al. 2024, "SiD", equation 23), per element.

    Its gradient flows through both networks, to where the student landed.
    """

    name = "score-identity"
    through_critic = True

    class Options(ScoreLoss.Options):
        """
        Attributes:
            alpha: a, how much of the Fisher divergence that the critic estimates is taken off.
        """

        alpha: float = Field(1.2, ge=0)

    options: Options

    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: Scores) -> torch.Tensor:
        """The loss, [B]."""
        x, theirs, own = goal.x, goal.teacher.x0, goal.critic.x0
        distance = _mean((x - theirs).abs()).detach()
        difference = theirs - own
        return _mean(difference * ((theirs - x) - self.options.alpha * difference)) / distance


def _mean(values: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B]."""
    return values.flatten(1).mean(1)
