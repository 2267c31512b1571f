"""A U-Net that takes the guidance scale as an input (Meng et al. 2023). Needs only torch and diffusers.

An exported pipeline brings this file along, as unet/guided_unet.py.
"""

import inspect
from collections.abc import Callable
from typing import Any

from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

FEATURES = 256


class GuidedClassEmbedding(nn.Embedding):
    """The embedding of a class and a guidance scale; of the class alone while the weights of `guidance` are zero."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        self.guidance = nn.Linear(FEATURES, width)
        nn.init.zeros_(self.guidance.weight)
        nn.init.zeros_(self.guidance.bias)

    def forward(self, labels_and_scales: Any) -> Tensor:
        """Classes [B] and guidance scales s [B] -> [B, width].

        The features are the sinusoids of 1000 w, as in LCM and diffusers, where w = s − 1 is Meng et al.'s scale.
        """
        labels, scales = labels_and_scales
        features = get_timestep_embedding(1000 * (scales - 1), FEATURES, downscale_freq_shift=1)
        added: Tensor = self.guidance(features.to(self.weight.dtype))
        return super().forward(labels) + added


def _with_base_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Add `UNet2DModel`'s arguments to the signature, from which diffusers reads and writes a config."""
    own = [item for item in inspect.signature(init).parameters.values() if item.kind is not item.VAR_KEYWORD]
    base = list(inspect.signature(UNet2DModel.__init__).parameters.values())[1:]
    init.__signature__ = inspect.Signature([*own, *base])  # type: ignore[attr-defined]
    return init


class GuidedUNet2DModel(UNet2DModel):
    """A class-conditional `UNet2DModel` with a guidance scale s for each sample as an input; s = 1 is no guidance.

    The embedding of the scale is added to the time embedding, as that of the class is, and is initialised as zero. With
    the weights of a `UNet2DModel` the network has the same outputs at every scale until it is trained.

    Args:
        guidance_range: the lowest and the highest scale that it is trained for.
        arguments: those of `UNet2DModel`, `num_class_embeds` among them.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    @_with_base_arguments
    def __init__(self, guidance_range: tuple[float, float] = (1.0, 3.0), **arguments: Any) -> None:
        super().__init__(**arguments)
        old: nn.Embedding = self.class_embedding  # type: ignore[has-type]
        self.class_embedding = GuidedClassEmbedding(old.num_embeddings, old.embedding_dim)

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Tensor, guidance: Tensor, return_dict: bool = True
    ) -> Any:
        """As `UNet2DModel`, with guidance scales s [B]."""
        return super().forward(sample, timestep, (class_labels, guidance), return_dict)
