"""The embedding of a class as a context of one token. Needs only torch and diffusers.

An exported pipeline brings this file along, as class_embedder/class_embedder.py.
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ClassEmbedder(ModelMixin, ConfigMixin):
    """Args: the number of classes, with the null class, if there is one; the width of the context."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Classes [B] -> [B, 1, width]."""
        context: Tensor = self.embedding(labels)[:, None]
        return context
