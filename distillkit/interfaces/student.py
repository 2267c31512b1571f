"""The config's `[student]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from distillkit.component import StrictModel

OF_ADAPTERS = frozenset({"rank", "alpha", "target_modules"})
"""The options of an adapter."""

PREVIOUS = Path("previous")
"""`start` for the result of the phase before."""


class StudentTable(StrictModel):
    """`[student]`: what is trained, and what the student has inside.

    Attributes:
        guidance: "baked": only the teacher is guided, at `source.guidance`, and the student learns to make guided
            samples in one evaluation a step. Left out: the student is guided as its teacher is.
        start: where the student's weights come from, while the teacher's are the model's: the folder of a run, or of a
            pipeline with the same network; "previous" in a later phase: the result of the phase before. The phase then
            has the first phase's model. A student with an adapter starts with the adapter of a run that had one, of the
            same rank and layers. Left out: the student begins as its teacher.
        adapter: an adapter that is trained in the place of the network's own weights, which stay as they are. Left
            out: all weights are trained. "lora": a layer with the weight W computes with W + (alpha/rank)·B·A (Hu et
            al. 2022); A and B are trained, and B begins as zero, so that the student begins as the network itself.
        rank: r, the rows of A and the columns of B.
        alpha: the scale of B·A; left out: the rank, so that its factor is 1.
        target_modules: which linear and convolution layers have an adapter: names, or the ends of names, as in peft
            ("to_q", "mid_block.attentions.0.to_q"). Left out: all of them.
    """

    guidance: Literal["baked"] | None = None
    start: Path | None = None
    adapter: Literal["lora"] | None = None
    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _of_an_adapter(self) -> Self:
        alone = sorted(self.model_fields_set & OF_ADAPTERS)
        if self.adapter is None and alone:
            raise ValueError(f'{alone[0]} is an option of an adapter: give adapter = "lora" as well')
        return self

    @model_serializer(mode="wrap")
    def _read_again(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an adapter, its options are left out of a run's own config, which would be refused with them."""
        left_out = OF_ADAPTERS if self.adapter is None else ()
        return {name: value for name, value in dump(self).items() if name not in left_out}
