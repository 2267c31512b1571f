"""`distillkit launch`: a command in several processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click
import psutil
import torch
import torch.distributed.elastic.multiprocessing.errors
import torch.distributed.launcher.api

from distillkit.cli.hostfile import find_self, read_hosts
from distillkit.errors import DistillkitError, Terminated

GRACE = 5.0
"""Seconds that processes have to end after a second signal."""
PORT = 29500
"""Where the first machine is met, as with torchrun."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--processes", type=click.IntRange(1), help="On this machine. [default: one for each GPU, or 1]")
@click.option(
    "--hostfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Several machines: a line for each, as in 'worker-1 slots=8'. Give the same command on all of them.",
)
@click.option("--node-rank", type=click.IntRange(0), help="This machine's place in FILE. [default: found by its name]")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Of the first machine.")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGUMENTS]…")
def command(
    processes: int | None,
    hostfile: Path | None,
    node_rank: int | None,
    port: int,
    arguments: tuple[str, ...],
) -> None:
    """Carry out a command of distillkit in several processes, as in: launch --processes 2 run my.toml

    torch's agent starts them and ends them all when one fails. Ctrl-C and SIGTERM are passed on to them. The exit code
    is theirs. What torchrun, deepspeed and accelerate start runs as well.
    """

    endpoint, nodes = "localhost:0", 1
    if hostfile is not None:
        if processes is not None:
            raise click.UsageError("--processes: the hostfile says how many each machine has; give one of the two")
        hosts = read_hosts(hostfile)
        node_rank = find_self(hosts, hostfile) if node_rank is None else node_rank
        if node_rank >= len(hosts):
            raise click.BadParameter(f"{hostfile} names {len(hosts)} machines", param_hint="--node-rank")
        endpoint, nodes, processes = f"{next(iter(hosts))}:{port}", len(hosts), [*hosts.values()][node_rank]
    elif node_rank is not None:
        raise click.UsageError("--node-rank: is a place in a hostfile; give --hostfile too")

    processes = processes or torch.cuda.device_count() or 1
    code = _launch(arguments, processes, nodes, node_rank or 0, endpoint)
    # Not by way of the interpreter's end, at which threads of torch's store may be running, and abort it.
    os._exit(code)


def _launch(arguments: tuple[str, ...], processes: int, nodes: int, node_rank: int, endpoint: str) -> int:
    """Start this machine's processes and wait for them.

    Returns:
        the exit code.
    """

    # On CPUs, processes must share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # The processes say what went wrong.
    for module in ("multiprocessing", "agent.server"):
        logging.getLogger(f"torch.distributed.elastic.{module}.api").setLevel(logging.CRITICAL)
    config = torch.distributed.launcher.api.LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="distillkit",
        rdzv_backend="c10d" if nodes == 1 else "static",
        rdzv_endpoint=endpoint,
        rdzv_configs={} if nodes == 1 else {"rank": node_rank},
        max_restarts=0,
        # Not those that are passed on below: the agent would give the processes 30 seconds.
        signals_to_handle="SIGHUP,SIGQUIT",
    )
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        """The processes are in sessions of their own, so that no terminal tells them."""
        told.append(number)
        children = psutil.Process().children()
        if not children:  # other machines are waited for
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        for child in children:
            child.send_signal(number)
        if len(told) == 2:  # one that waits for another that hangs hears nothing
            threading.Thread(target=end, args=(children,), daemon=True).start()

    def end(children: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(children, timeout=GRACE)
        for child in alive:
            child.kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    try:
        torch.distributed.launcher.api.elastic_launch(config, sys.executable)("-u", "-m", "distillkit", *arguments)
    except torch.distributed.DistNetworkError as error:
        raise DistillkitError(
            f"{endpoint}: the machines cannot meet there ({str(error).splitlines()[0]}); name another --port, or, "
            "first in the hostfile, a machine that all can reach"
        ) from None
    except torch.distributed.elastic.multiprocessing.errors.ChildFailedError as error:
        return _code([failure.exitcode for failure in error.failures.values()], told)
    return 0


def _code(codes: list[int], told: list[int]) -> int:
    """One exit code for all: the one that means something, if a process has it.

    Args:
        codes: of those that failed; a process that a signal ended has the signal's number below 0.
        told: signals that were passed on. Without one, a process that SIGTERM ended is not what failed.
    """
    said = [128 - code if code < 0 else code for code in codes]
    if len(told) > 1 and 128 + signal.SIGKILL in said:  # they did not end by themselves
        return 128 + told[0]
    known = [code for code in (2, *(128 + number for number in told)) if code in said]
    return (known or [code for code in said if code != 128 + signal.SIGTERM] or said)[0]
