"""From the names of diffusers' weights to those of CompVis', and from tensors to weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

QUERIES_KEYS_VALUES = ("to_q.", "to_k.", "to_v.")


@dataclass(frozen=True)
class Origin:
    """Where the checkpoint has one of diffusers' weights.

    Attributes:
        name: its name in CompVis' network.
        third: which third of it, where queries (0), keys (1) and values (2) are one tensor.
        head: the width of an attention head in such a tensor; None if there is one head.
    """

    name: str
    third: int | None = None
    head: int | None = None

    def size(self, shape: torch.Size) -> list[int]:
        """How large its tensor is. A convolution of size 1 and a matrix are told apart by ones at the end: left out."""
        return without_ones([shape[0] if self.third is None else 3 * shape[0], *shape[1:]])

    def take(self, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The weight in float32 and in diffusers' shape, of a tensor of that size."""
        if self.third is not None:
            # The rows go head by head, each with its queries, keys and values.
            tensor = tensor.reshape(-1, 3, self.head or shape[0], *tensor.shape[1:])[:, self.third]
        return tensor.reshape(shape).float().clone()


@dataclass(frozen=True)
class Naming:
    """
    Attributes:
        blocks: how the blocks' names begin here -> there.
        inside: how, within a block, the layers' names begin here -> there.
        joined: what a layer is called there that makes queries, keys and values at once; None if there is none.
        head: the width of an attention head in it; None if there is one head.
    """

    blocks: Mapping[str, str]
    inside: Mapping[str, str]
    joined: str | None = None
    head: int | None = None

    def __call__(self, name: str) -> Origin:
        """Where the weight of this name comes from."""
        block = next((block for block in self.blocks if name.startswith(block)), "")
        start, rest = self.blocks.get(block, ""), name.removeprefix(block)
        if self.joined is not None:
            for third, layer in enumerate(QUERIES_KEYS_VALUES):
                if rest.startswith(layer):
                    return Origin(start + self.joined + rest.removeprefix(layer), third, self.head)
        layer = next((layer for layer in self.inside if rest.startswith(layer)), "")
        return Origin(start + self.inside.get(layer, "") + rest.removeprefix(layer))


def without_ones(shape: Iterable[int]) -> list[int]:
    """A size without the ones at its end."""
    sizes = [*shape]
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return sizes
