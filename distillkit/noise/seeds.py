"""Random numbers that say what they are for: a generator per purpose, so that a resumed run is the same run."""

from __future__ import annotations

import hashlib

import torch


def generator(*what: int | str) -> torch.Generator:
    """A fresh CPU generator that depends on nothing but `what` it is for: `generator(seed, rank, update, "noise")`.

    Different parts, or the same in another order, give unrelated generators. The global random state stays as it is.
    """
    digest = hashlib.sha256(repr(what).encode()).digest()
    # 63 bits: what torch takes without a sign.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
