"""Starts DeepSpeed, quietly."""

from __future__ import annotations

import io
import logging
import os
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
import torch.distributed
from torch.distributed import HashStore  # type: ignore[attr-defined]

from distillkit import distributed


def start(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
) -> Any:
    """DeepSpeed's engine around a module, whose trained weights the optimiser has.

    Args:
        config: DeepSpeed's.
        device: this process's, of the kind that DeepSpeed is to compute on.
    """
    if distributed.world_size() == 1 and not torch.distributed.is_initialized():
        # It takes a process group even for one process, and a launcher's word for which GPU is its.
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    # It calls functions of torch's that newer versions call otherwise, with every update.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # It tells of each of its parts, and warns of AdamW, which it has not tested.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    return engine
