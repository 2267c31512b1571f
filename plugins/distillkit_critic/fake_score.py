"""The critic of distribution matching: a second diffusion model, which learns what the student makes.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from distillkit import distributed
from distillkit.interfaces import Critic, Data, Landing, Model, OptimizerTable, Teacher
from distillkit.noise import Prediction, Predictor
from distillkit.noise.grids import written

TIMES = 64
"""Steps of the grid from which noise times are drawn."""
SHARE = 0.3
"""The least share of a noisy sample's noise that is new where a jump lands on a noisy sample itself."""


@dataclass(frozen=True)
class Scores:
    """What two diffusion models say of noised samples of the student's: what "scores" means in `Critic.gives`.

    Attributes:
        x: the clean sample that a denoiser of the student's distribution should see in `critic.z`, [B, C, H, W]: where
            the jump landed, if that is a clean sample.
        critic: x̂ of the network that learns the student's distribution; `critic.z` is the noised sample.
        teacher: x̂ of the teacher, in the same noised sample.
    """

    x: torch.Tensor
    critic: Prediction
    teacher: Prediction


@dataclass(frozen=True)
class Noised:
    """Noised landings: z [B, C, H, W] at t [B], the clean x to see in them, and its weight [B, 1, 1, 1]."""

    z: torch.Tensor
    t: torch.Tensor
    x: torch.Tensor
    weight: torch.Tensor


Unit = Annotated[float, Field(ge=0, lt=1)]


class CriticOptimizer(OptimizerTable):
    """As `[optimizer]`, with other defaults. Without momentum, a critic follows a student that moves."""

    learning_rate: float = Field(3e-4, gt=0)
    betas: tuple[Unit, Unit] = (0.0, 0.98)


class FakeScore(Critic):
    """A copy of the network that is trained to denoise the student's samples (Yin et al. 2024, "DMD": the fake score).

    Noise is added where the student's jumps landed, at s, to get to a noisier time r: z_r = a z_s + b ε with
    a = α_r/α_s and b² = σ_r² − a²σ_s². Jumps of all sizes so teach one critic, and need not be walked to clean data
    (Luo et al. 2025, "TDM"). Of the samples' distribution at r, the score is −E[b ε | z_r]/b², and by Tweedie's formula
    −(z_r − α_r x̂)/σ_r²: the denoiser x̂ learns x = (z_r − (σ_r²/b) ε)/α_r, which is z_s itself if that is clean. The
    weight of its error is max(SNR, 1) b²/σ_r²: the less noise is new, the less x is worth.
    """

    name = "fake-score"
    needs = frozenset({"teacher"})
    gives = frozenset({"scores"})

    class Options(Critic.Options):
        """
        Attributes:
            noise: how the noise times are spread, as `grid.spacing`: each is drawn from a grid that begins at the
                noisiest time; a sample's is noisier than where its jump landed.
            optimizer: as `[optimizer]`, for the critic's weights; learning_rate 3e-4 and betas [0, 0.98] if left out.
        """

        noise: Annotated[str, AfterValidator(written)] = "angle"
        optimizer: CriticOptimizer = CriticOptimizer.model_validate({})

    options: Options

    def setup(self, model: Model, student: Predictor, data: Data | None) -> None:
        """Copy the network, which is the teacher as it is now."""
        self._critic = student.trained_copy()
        self.network = self._critic.network
        self._path = student.path
        # [times], noisiest first, without the clean one.
        path = student.path.teacher_grid(self.options.noise)
        self._times = path.grid(TIMES)[:-1].to(student.device)
        alpha, sigma = path.alpha_sigma(self._times)
        self._ratios = (sigma / alpha).flatten()

    def evaluations(self, teacher: Teacher | None) -> int:
        """Its own prediction and the teacher's, and one for each of its updates."""
        return 1 + self.required(teacher, "a teacher").evaluations + self.options.updates

    def loss(self, landing: Landing, generator: torch.Generator) -> torch.Tensor:
        """The weighted error of its x̂, [B]."""
        noised = self._noised(landing, generator)
        predicted = self._predict(landing, noised)
        return (noised.weight * (predicted.x0 - noised.x).square()).flatten(1).mean(1)

    def judge(self, landing: Landing, teacher: Teacher | None, generator: torch.Generator) -> Scores:
        """What it and the teacher see in the student's samples, noised."""
        noised, jumps = self._noised(landing, generator), landing.jumps
        asked = self.required(teacher, "a teacher")
        theirs = asked.predict(noised.z, noised.t, jumps.condition, jumps.step_size)
        return Scores(noised.x, self._predict(landing, noised), theirs)

    def _predict(self, landing: Landing, noised: Noised) -> Prediction:
        """Its prediction; it is told the size of the jump, so that it knows each number of steps by itself."""
        # Guided or not, what the student makes is one distribution.
        condition = replace(landing.jumps.condition, guidance=None)
        prediction: Prediction = self._critic(noised.z, noised.t, condition, landing.jumps.step_size)
        return prediction

    def _noised(self, landing: Landing, generator: torch.Generator) -> Noised:
        """Noise the landings."""
        path, z = self._path, landing.z
        shape = (len(z) * distributed.world_size(), *z.shape[1:])
        drawn = torch.rand(shape[0], generator=generator), torch.randn(shape, generator=generator)
        share, noise = (distributed.shard(values).to(z.device) for values in drawn)
        s = landing.jumps.times[-1]
        alpha_s, sigma_s = path.alpha_sigma(s)
        # b²/σ_r² = 1 − (σ_s α_r/(α_s σ_r))²: the grid's first times are noisy enough, one at the least.
        enough = (sigma_s / alpha_s).flatten().unsqueeze(1) <= self._ratios * (1 - SHARE**2) ** 0.5
        count = enough.sum(1).clamp(min=1)
        r = self._times[(share * count).long()]
        alpha, sigma = path.alpha_sigma(r)
        a = alpha / alpha_s
        b = (sigma.square() - (a * sigma_s).square()).sqrt()
        z_r = a * z + b * noise
        x = (z_r - sigma.square() / b * noise) / alpha
        return Noised(z_r, r, x, (alpha / sigma).square().clamp(min=1) * (b / sigma).square())
