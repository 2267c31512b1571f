"""Sends what a run's record has and a store lacks, when no run does so itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from filelock import Timeout

from distillkit.errors import DistillkitError
from distillkit_mlflow.delivery import Delivery
from distillkit_mlflow.lock import lock
from distillkit_mlflow.record import FILE, read
from distillkit_mlflow.shipper import LINGER
from distillkit_mlflow.uri import describe, redact_uri, sqlite_file

_logger = logging.getLogger(__name__)


def replay(folder: Path, written: str, uri: str) -> str:
    """Send what is missing.

    Args:
        folder: the run's.
        written: the store as a config or a command names it.
        uri: the same, from the current folder, with its credentials.

    Returns:
        what was sent, for the user.

    Raises:
        DistillkitError: there is no record, its run is still going on, or the store does not take it.
    """
    events, _ = read(folder / FILE)
    if not events:
        raise DistillkitError(f"{folder}: holds no record for MLflow (no {FILE}): it was made with another tracker")
    if events[0]["nested"]:
        chain = folder.absolute().parent.parent
        raise DistillkitError(f"{folder}: is a phase of a chain, which is sent as a whole: distillkit track {chain}")
    if redact_uri(written) == events[0]["uri"] and sqlite_file(uri) is not None:
        # The run may have been made in another folder.
        uri = events[0]["store"]
    finished = events[-1]["event"] == "finish"
    try:
        # The end of a run leaves the rest to its own process for a minute.
        with lock(folder).acquire(timeout=LINGER + 5 if finished else 0), _silence():
            delivery = Delivery(uri, folder, _logger.warning)
            delivery.send()
            delivery.close()
    except Timeout:
        raise DistillkitError(f"{folder}: the run is still going on, and sends its record itself") from None
    except Exception as error:
        raise DistillkitError(
            f"{redact_uri(uri)}: MLflow does not take the record of {folder} ({describe(uri, error)}); nothing is "
            "lost, try again later"
        ) from None
    sent = ", ".join(f"{count} {what}" for what, count in delivery.counts.items())
    return f"{folder} -> {redact_uri(uri)}: {f'sent {sent}' if sent else 'nothing was missing'}"


@contextmanager
def _silence() -> Iterator[None]:
    """MLflow prints links, with the URI in them."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
