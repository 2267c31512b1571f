"""`distillkit launch`: runs a command in several processes."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psutil
import torch
import torch.distributed.elastic.multiprocessing.errors
import torch.distributed.launcher.api

from distillkit.cli import LAUNCHER
from distillkit.errors import DistillkitError, Terminated, heeded_signals, leave_terminal
from distillkit.reading import read_text

GRACE = 5.0
"""Seconds after a second signal before the processes are killed."""
PORT = 29500
"""The port of the rendezvous on the first machine, torchrun's default."""
LOOPBACK = "127.0.0.1"
HOST = re.compile(r"(\S+)\s+slots=(\d+)")
"""A line of a hostfile, the format of MPI's and DeepSpeed's launchers."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--processes", type=click.IntRange(1), help="Processes on this machine. [default: one per GPU, or 1]")
@click.option(
    "--hostfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The machines, one per line, as in 'worker-1 slots=8'. Run the same command on all of them.",
)
@click.option("--node-rank", type=click.IntRange(0), help="This machine's index in FILE. [default: by name]")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="On the first machine.")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGUMENTS]…")
def command(
    processes: int | None,
    hostfile: Path | None,
    node_rank: int | None,
    port: int,
    arguments: tuple[str, ...],
) -> None:
    """Run a command of distillkit in several processes, as in: launch --processes 2 run my.toml

    torchrun's agent starts the processes, and terminates all of them when one fails. Ctrl-C and other signals are
    forwarded to them, and the exit code is theirs. torchrun, deepspeed and accelerate can start distillkit as well.
    """
    endpoint, nodes = "", 1
    if hostfile is not None:
        if processes is not None:
            raise click.UsageError("--processes: the hostfile has the number of each machine; give only one of the two")
        hosts = read_hosts(hostfile)
        node_rank = find_self(hosts, hostfile) if node_rank is None else node_rank
        if node_rank >= len(hosts):
            raise click.BadParameter(f"{hostfile} names {len(hosts)} machines", param_hint="--node-rank")
        endpoint, nodes, processes = f"{next(iter(hosts))}:{port}", len(hosts), [*hosts.values()][node_rank]
    elif node_rank is not None:
        raise click.UsageError("--node-rank: is an index in a hostfile; give --hostfile too")

    processes = processes or torch.cuda.device_count() or 1
    code = _launch(arguments, processes, nodes, node_rank or 0, endpoint)
    # Threads of torch's store that are still running can abort a normal exit of the interpreter.
    os._exit(code)


def _launch(arguments: tuple[str, ...], processes: int, nodes: int, node_rank: int, endpoint: str) -> int:
    """Start this machine's processes and wait for them.

    Returns:
        the exit code.
    """
    # On CPUs, processes must share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # They end with this process, even if it is killed.
    os.environ[LAUNCHER] = str(os.getpid())
    # The processes print their own errors.
    for module in ("multiprocessing", "agent.server"):
        logging.getLogger(f"torch.distributed.elastic.{module}.api").setLevel(logging.CRITICAL)
    if nodes == 1:
        store = _local_store()
        endpoint = f"{LOOPBACK}:{store.port}"
    config = torch.distributed.launcher.api.LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="distillkit",
        # Unlike c10d's, which unpickles what it gets from the store.
        rdzv_backend="static",
        rdzv_endpoint=endpoint,
        rdzv_configs={"rank": node_rank},
        max_restarts=0,
        # Not those that are forwarded below: the agent would kill the processes after 30 seconds.
        signals_to_handle="SIGQUIT",
    )
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        """The processes have sessions of their own, so the terminal does not signal them."""
        if number == signal.SIGHUP:
            leave_terminal()
        received.append(number)
        children = psutil.Process().children()
        if not children and len(received) == 1:  # still waiting for other machines
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        if len(received) == 2:  # a process that waits for one that hangs does not react to signals
            threading.Thread(target=end, args=(children,), daemon=True).start()

    def end(children: list[psutil.Process]) -> None:
        # Without waiting for them: that would take their exit codes from the agent, which then reports success.
        time.sleep(GRACE)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    for number in heeded_signals():
        signal.signal(number, forward)
    try:
        torch.distributed.launcher.api.elastic_launch(config, sys.executable)(
            # -P: without the current folder, in which somebody else's modules and plugins may be.
            *("-u", "-P", "-m", "distillkit"),
            *arguments,
        )
    except torch.distributed.DistNetworkError as error:
        raise DistillkitError(
            f"{endpoint}: the machines cannot connect there ({str(error).splitlines()[0]}); choose another --port, or "
            "put a machine first in the hostfile that all others can reach"
        ) from None
    except torch.distributed.elastic.multiprocessing.errors.ChildFailedError as error:
        return _code([failure.exitcode for failure in error.failures.values()], received)
    except torch.distributed.elastic.multiprocessing.SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _local_store() -> Any:
    """The store through which processes of one machine find each other; also sets the environment that they connect in.

    Nothing listens beyond the loopback interface. A TCPStore by itself listens on all of them; torchrun's agent takes
    this one, because a process has one for each port (`multi_tenant`).
    """
    addresses = psutil.net_if_addrs().items()
    interface = next(name for name, found in addresses if LOOPBACK in (address.address for address in found))
    os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    listener = socket.create_server((LOOPBACK, 0))
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )


def _code(codes: list[int], received: list[int]) -> int:
    """The exit code that is closest to the cause: a user's error, then a forwarded signal, then any other failure.

    Args:
        codes: exit codes of the processes that failed; −n for one that signal n terminated.
        received: the signals that were forwarded. Without one, SIGTERM came from the agent and is not the cause.
    """
    exits = [128 - code if code < 0 else code for code in codes]
    if len(received) > 1 and 128 + signal.SIGKILL in exits:  # killed after the second signal
        return 128 + received[0]
    known = [code for code in (2, *(128 + number for number in received)) if code in exits]
    return (known or [code for code in exits if code != 128 + signal.SIGTERM] or exits)[0]


def read_hosts(file: Path) -> dict[str, int]:
    """Read a hostfile: name -> number of processes, in the file's order. Empty lines and comments (#) are skipped.

    Raises:
        DistillkitError: the file cannot be read, or a line has another form.
    """
    lines = read_text(file).splitlines()
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.split("#")[0].strip()):
            continue
        match = HOST.fullmatch(text)
        if match is None or match[1] in hosts or match[2] == "0":
            raise DistillkitError(
                f"{file}: line {number}: expected a machine that is not named above, and its number of processes, as "
                f"in 'worker-1 slots=8' (got '{text}')"
            )
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise DistillkitError(f"{file}: names no machine; expected lines as in 'worker-1 slots=8'")
    return hosts


def find_self(hosts: dict[str, int], file: Path) -> int:
    """This machine's index in a hostfile, by its name.

    Raises:
        DistillkitError: the hostfile does not name it.
    """
    name = socket.gethostname()
    for i, host in enumerate(hosts):
        if host in (name, name.split(".")[0], socket.getfqdn()):
            return i
    raise DistillkitError(
        f"{file}: does not name this machine, {name}; give its index in the file, from 0, with --node-rank"
    )
