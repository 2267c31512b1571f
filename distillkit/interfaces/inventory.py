"""What a model's files say of it before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Inventory:
    """What a model's files say of it before it is loaded, for estimates and choices.

    Attributes:
        what: what kind of model it is, in a word ("DiTPipeline").
        parameters: the number of parameters of the network that is distilled.
        frozen: the number of parameters of the parts that stay in memory beside it (an autoencoder).
        size: height times width of the samples that the network takes; None if the files do not say.
        guidance: the guidance scale s that its own pipeline uses by default (1: none).
        adapter: the number of parameters of the student's adapter; 0 without one.
        encoders: bytes of the parts that are freed before the first update (text encoders), as they are loaded.
        others: a sentence on what else the files hold that could be distilled in the network's place, and how to take
            it; "" for nothing.
        guidance_input: whether the network takes the guidance scale as an input.
    """

    what: str
    parameters: int
    frozen: int
    size: int | None
    guidance: float
    adapter: int = 0
    encoders: int = 0
    others: str = ""
    guidance_input: bool = False
