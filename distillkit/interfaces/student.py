"""What of a network is trained: the config's `[student]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillkit.component import StrictModel


class StudentTable(StrictModel):
    """`[student]`: an adapter that is trained in the place of the network's own weights, which stay as they are.

    Left out: all of the network's weights are trained.

    Attributes:
        adapter: "lora": a layer with the weight W computes with W + (alpha/rank)·B·A (Hu et al. 2022); A and B are
            trained, and B begins as zero, so that the student begins as the network itself.
        rank: r, the rows of A and the columns of B.
        alpha: the scale of B·A; left out: the rank, so that its factor is 1.
        target_modules: which linear and convolution layers have an adapter: names, or the ends of names, as in peft
            ("to_q", "mid_block.attentions.0.to_q"). Left out: all of them.
    """

    adapter: Literal["lora"]
    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
