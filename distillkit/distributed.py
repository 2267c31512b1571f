"""The processes of a run. With a single one, everything here returns what it is given.

The launcher sets RANK, LOCAL_RANK and WORLD_SIZE in the environment, as torchrun, deepspeed, accelerate and
`distillkit launch` do. Collectives (`barrier`, `any_rank`, `broadcast`, `all_mean`, `all_gather`) must be called by all
processes, in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed

from distillkit.errors import DistillkitError

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a process which is about to exit waits for the others."""

active = False
"""Whether there are several processes, and they have met. To read it costs nothing in an update of a single process."""

_host: Any = None
"""The group for tensors on the CPU; None: the default one does."""
_store: Any = None
"""Where the processes leave each other notes."""


def rank() -> int:
    """Which process this is, from 0."""
    if active:
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many processes there are."""
    if active:
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Which of the processes on this machine this is, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def local_world_size() -> int:
    """How many of the processes run on this machine."""
    # deepspeed's launcher has a name of its own for it.
    told = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1"))
    return int(told) if world_size() > 1 else 1


def is_main_process() -> bool:
    """Whether this is the process that prints, records and writes for all."""
    return rank() == 0


def init(device: torch.device, timeout: float) -> None:
    """Meet the other processes. Nothing happens if there are none, or if they have met already.

    Args:
        device: this process's.
        timeout: seconds that a process waits for the others, here and later, before it fails.

    Raises:
        DistillkitError: the environment has not all that it takes.
    """
    global active, _host, _store
    from torch.distributed.rendezvous import rendezvous

    if world_size() == 1 or active:
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise DistillkitError(
            f"WORLD_SIZE is {world_size()} in the environment, but {' and '.join(missing)} not set; start the "
            "processes with distillkit launch, torchrun, deepspeed or accelerate, or unset WORLD_SIZE"
        )
    limit = timedelta(seconds=timeout)
    _store, number, size = next(rendezvous("env://", timeout=limit))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=limit)
    if backend != "gloo":
        # What is agreed upon on the CPU must not wait for a GPU.
        _host = torch.distributed.new_group(backend="gloo", timeout=limit)
    active = True


def destroy() -> None:
    """Part from the others, at the end."""
    global active, _host, _store
    if active:
        torch.distributed.destroy_process_group()
    active, _host, _store = False, None, None


def first_to_fail() -> bool:
    """Whether this process failed before all others, so that it is the one to say why.

    If not, this waits, as a launcher takes the exit code of the first to end, and ends the others.
    """
    if _store is None:
        # The first most likely fails alike. If it does not, this is the only one that knows.
        return is_main_process() or _outlived()
    try:
        first = bool(_store.add("distillkit/failed", 1) == 1)
    except RuntimeError:  # the process that held the store is gone: it failed first
        first = False
    if not first:
        _outlived()
    return first


def _outlived() -> bool:
    """Whether nobody ends this process while it waits, as a launcher does when another one has failed."""
    try:
        time.sleep(PATIENCE)
    except KeyboardInterrupt:
        return False
    return True


def leave_together() -> None:
    """Wait a while until all processes are about to exit: when one is gone, a launcher ends the others."""
    if _store is None:
        return
    until = time.monotonic() + PATIENCE
    try:
        _store.add("distillkit/leaving", 1)
        while _store.add("distillkit/leaving", 0) < world_size() and time.monotonic() < until:
            time.sleep(0.05)
    except RuntimeError:  # the process that held the store is gone
        return


def barrier() -> None:
    """Wait until all processes are here."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process; all get the same answer. No GPU is waited for."""
    if not active:
        return flag
    told = torch.tensor(int(flag))
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX, group=_host)
    return bool(told)


def broadcast(value: T) -> T:
    """The first process's value, which all get (anything that can be pickled)."""
    if not active:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0, group=_host)
    return values[0]


def all_mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over the processes, elementwise."""
    if not active:
        return tensor
    total = tensor.detach().clone()
    torch.distributed.all_reduce(total, group=_group(total))
    return total / world_size()


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """All processes' tensors, one behind the other: [n, ...] of each, with n its own -> [sum of n, ...]."""
    if not active:
        return tensor
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    torch.distributed.all_gather(lengths, torch.tensor([len(tensor)]), group=_host)
    sizes = [int(length) for length in lengths]
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded, group=_group(tensor))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def shard(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that is equal in all of them: [count · b, ...] -> [b, ...]."""
    return tensor.chunk(world_size())[rank()] if world_size() > 1 else tensor


def split_between_processes(items: Sequence[T]) -> Iterator[T]:
    """This process's items: each round gives every process the next one, and `gather` puts them in their order again.

    All processes get equally many. In the last round the last item may be given again and again: drop what is too much.
    """
    for begin in range(0, len(items), world_size()):
        yield items[min(begin + rank(), len(items) - 1)]


def _group(tensor: torch.Tensor) -> torch.distributed.ProcessGroup | None:
    return _host if tensor.device.type == "cpu" else None
