"""From the names of diffusers' weights to those of CompVis'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distillkit_compvis.weights import Origin

QUERIES_KEYS_VALUES = ("to_q.", "to_k.", "to_v.")


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
