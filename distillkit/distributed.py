"""Communication between the processes of a run. With a single process, every function returns its argument.

Launchers (torchrun, deepspeed, accelerate, `distillkit launch`) set RANK, LOCAL_RANK and WORLD_SIZE in the environment.
`any_rank`, `broadcast`, `all_mean`, `all_gather`, `on_all_ranks` and `on_main_process` are collectives: all
processes must call them, in the same order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from distillkit.errors import DistillkitError
from distillkit.files import writing

T = TypeVar("T")

EXIT_TIMEOUT = 10.0
"""Seconds that a process which is about to exit waits for the others."""

active = False
"""Whether there are several processes and their process group is initialised. Read before each call in an update."""

_host: Any = None
"""The process group for tensors on the CPU; None for the default one."""
_store: Any = None
"""The key-value store that all processes share."""


def rank() -> int:
    """This process's rank, from 0."""
    if active:
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """The number of processes."""
    if active:
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's rank among those on this machine, from 0: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def local_world_size() -> int:
    """The number of processes on this machine."""
    # deepspeed's launcher sets LOCAL_SIZE.
    size = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1"))
    return int(size) if world_size() > 1 else 1


def is_main_process() -> bool:
    """Whether this is rank 0, which prints and writes the run folder."""
    return rank() == 0


def init(device: torch.device, timeout: float) -> None:
    """Initialise the default process group. Does nothing in a single process, or if it is initialised already.

    Args:
        device: this process's; the backend is NCCL for CUDA and Gloo for the CPU.
        timeout: of this call and of later collectives, in seconds.

    Raises:
        DistillkitError: WORLD_SIZE is set in the environment, but not all of the other variables.
    """
    global active, _host, _store
    if world_size() == 1 or active:
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise DistillkitError(
            f"the environment sets WORLD_SIZE to {world_size()}, but does not set {' or '.join(missing)}: start the "
            "processes with distillkit launch, torchrun, deepspeed or accelerate, or unset WORLD_SIZE"
        )
    limit = timedelta(seconds=timeout)
    _store, number, size = next(torch.distributed.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=limit)
    if backend != "gloo":
        # Collectives on CPU tensors must not wait for a GPU.
        _host = torch.distributed.new_group(backend="gloo", timeout=limit)
    active = True


def destroy() -> None:
    """Destroy the process group."""
    global active, _host, _store
    if active:
        torch.distributed.destroy_process_group()
    active, _host, _store = False, None, None


def first_to_fail() -> bool:
    """Whether this process failed before all others, so that it is the one that prints the error.

    If not, wait first: a launcher takes the exit code of the first process that ends, and then terminates the others.
    """
    if _store is None:
        # Rank 0 most likely fails with the same error. If it does not, no launcher terminates this process.
        return is_main_process() or _survives()
    with suppress(RuntimeError):  # the process that hosts the store has exited: it failed first
        if _store.add("distillkit/failed", 1) == 1:
            return True
    _survives()
    return False


def _survives() -> bool:
    """Wait for the signal that a launcher sends when another process has failed. Returns whether none arrives."""
    try:
        time.sleep(EXIT_TIMEOUT)
    except KeyboardInterrupt:
        return False
    return True


def exit_barrier() -> None:
    """Wait, at most for EXIT_TIMEOUT, until all processes are about to exit.

    When one process has exited, a launcher may terminate the others.
    """
    if _store is None:
        return
    until = time.monotonic() + EXIT_TIMEOUT
    with suppress(RuntimeError):  # the process that hosts the store has exited
        _store.add("distillkit/leaving", 1)
        while _store.add("distillkit/leaving", 0) < world_size() and time.monotonic() < until:
            time.sleep(0.05)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process; the same in all of them. Does not synchronise with the GPU."""
    if not active:
        return flag
    result = torch.tensor(int(flag))
    torch.distributed.all_reduce(result, op=torch.distributed.ReduceOp.MAX, group=_host)
    return bool(result)


def broadcast(value: T) -> T:
    """Rank 0's value, of JSON's types: what comes from a socket is not unpickled, as a pickle can run code."""
    if not active:
        return value
    data = _encode(value) if is_main_process() else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor(len(data))
    torch.distributed.broadcast(size, src=0, group=_host)
    torch.distributed.broadcast(data.resize_(int(size)), src=0, group=_host)
    return cast(T, _decode(data)[0])


def _encode(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(f"{json.dumps(value)}\n".encode()), dtype=torch.uint8)


def _decode(data: torch.Tensor) -> list[Any]:
    return [json.loads(line) for line in bytes(data.numpy()).splitlines()]


def all_mean(tensor: torch.Tensor) -> torch.Tensor:
    """The elementwise mean over the processes."""
    if not active:
        return tensor
    total = tensor.detach().clone()
    torch.distributed.all_reduce(total, group=_host if total.device.type == "cpu" else None)
    return total / world_size()


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """The processes' tensors, concatenated in rank order: [n_rank, ...] -> [sum of n_rank, ...]."""
    if not active:
        return tensor
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    torch.distributed.all_gather(lengths, torch.tensor([len(tensor)]), group=_host)
    sizes = [int(length) for length in lengths]
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded, group=_host if tensor.device.type == "cpu" else None)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def on_all_ranks(do: Callable[[], T], path: Path | None = None) -> T:
    """Call `do` in every process. If it fails in one, all raise its error, so that none waits for another forever.

    Args:
        do: must not call a collective.
        path: the file or folder that it writes, if it does: named in the error message.

    Raises:
        DistillkitError: it failed, in this or another process.
    """
    result, failed = _try(do, path)
    if any_rank(failed is not None):
        raise DistillkitError(next(filter(None, _decode(all_gather(_encode(failed))))))
    return cast(T, result)


def on_main_process(do: Callable[[], T], path: Path | None = None) -> T:
    """Call `do` in the main process only. All processes return its result, or raise its error.

    Args:
        do: must not call a collective. Its result must be of JSON's types.
        path: the file or folder that it writes, if any; named in the error message.
    """
    result, failed = broadcast(_try(do, path) if is_main_process() else (None, None))
    if failed is not None:
        raise DistillkitError(failed)
    return cast(T, result)


def _try(do: Callable[[], T], path: Path | None) -> tuple[T | None, str | None]:
    """Returns the result, or the message of the error."""
    try:
        with nullcontext() if path is None else writing(path):
            return do(), None
    except DistillkitError as error:
        return None, str(error)


def shard(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor that all of them have: [world_size · b, ...] -> [b, ...]."""
    return tensor.chunk(world_size())[rank()] if world_size() > 1 else tensor


def split_between_processes(items: Sequence[T]) -> Iterator[T]:
    """Iterate over this process's items: rank r has items r, r + world_size, r + 2 · world_size, …

    Every process gets the same number of items, so that each can take part in the collectives of every round. If the
    items run out in the last round, the last item is repeated: cut the gathered results to the number of items.
    """
    for begin in range(0, len(items), world_size()):
        yield items[min(begin + rank(), len(items) - 1)]
