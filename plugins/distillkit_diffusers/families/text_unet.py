"""What the text-conditional families of `UNet2DConditionModel` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch

from distillkit.interfaces import GuidanceInput
from distillkit.noise import GUIDANCE
from distillkit_diffusers.families.table import TableFamily
from distillkit_diffusers.families.text import Text


class TextUnet(TableFamily, Text):
    """A U-Net on a variance-preserving path; a guidance-distilled one (LCM's, say) takes the scale as an input."""

    @property
    def guidance_input(self) -> GuidanceInput | None:
        """Where the config has a `time_cond_proj_dim`; it does not say for what scales the network was made."""
        return None if self.config["time_cond_proj_dim"] is None else GuidanceInput(0.0, inf, new=False)

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The scale s as the sinusoids of 1000 w, where w = s − 1, as the pipelines have it."""
        from diffusers.models.embeddings import get_timestep_embedding

        found = super().arguments(inputs)
        if self.guidance_input is not None:
            w = found.pop(GUIDANCE) - 1
            features = self.config["time_cond_proj_dim"]
            found["timestep_cond"] = get_timestep_embedding(1000 * w, features, downscale_freq_shift=1)
        return found
