"""What the engines do alike: claim a device, and ask a network to compute its activations twice."""

from __future__ import annotations

import torch

from distillkit import distributed
from distillkit.errors import DistillkitError


def claim(wanted: str, minutes: float) -> torch.device:
    """The device that `engine.device` means to this process; meets the other processes.

    Args:
        wanted: "auto", "cpu", "cuda" or "cuda:N". Of several processes each takes the GPU of its own number.
        minutes: that they wait for each other.

    Raises:
        DistillkitError: it is not there.
    """

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise DistillkitError(f"engine.device: '{wanted}' is no device; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise DistillkitError(f"engine.device: expected auto, cpu, cuda or cuda:N (got '{wanted}')")
    if device.type == "cuda":
        device = _own_gpu(device, wanted)
    distributed.init(device, 60 * minutes)
    return device


def _own_gpu(device: torch.device, wanted: str) -> torch.device:

    count, here = torch.cuda.device_count(), distributed.local_world_size()
    if here > 1 and device.index is not None:
        raise DistillkitError(
            f"engine.device: '{wanted}' is one GPU, and {here} processes run on this machine; use \"cuda\": each takes "
            "the GPU of its own number"
        )
    if here > count and here > 1:
        raise DistillkitError(
            f"engine.device: {here} processes run on this machine, and torch sees {count} CUDA "
            f"device{'s' * (count != 1)}; start as many processes as there are GPUs"
        )
    if here == 1 and (device.index or 0) >= count:
        raise DistillkitError(
            f"engine.device: '{wanted}' is not there: torch sees {count} CUDA device{'s' * (count != 1)}; "
            'use "auto" or "cpu"'
        )
    return torch.device("cuda", distributed.local_rank()) if here > 1 else device


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 (a GPU that has it, a CPU with AVX512-BF16)."""

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public question for it in all the versions that distillkit takes.
    return bool(torch.cpu._is_avx512_bf16_supported())


def checkpoint_gradients(network: torch.nn.Module) -> None:
    """Ask a network to; diffusers' have a method for it.

    Raises:
        DistillkitError: it cannot.
    """
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError):
        raise DistillkitError(
            f"engine.gradient_checkpointing: {type(network).__name__} has no gradient checkpointing; set it to false"
        ) from None
