"""Joining the Ray cluster that RAY_ADDRESS names, or starting one with what this machine has."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import RequestError

ANSWER_S = 10.0


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[Any]:
    """Yield `ray`, connected. A cluster that this call started is stopped at the end.

    RAY_ADDRESS names the cluster to join (`auto`: the one that runs on this machine). Without it
    one starts here with this machine's cores, whatever else runs.

    Raises:
        RequestError: nothing answers at RAY_ADDRESS.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_answer(address)
        options: dict[str, Any] = {"address": address}
    else:
        # Without "local" Ray looks for the last cluster of this machine, and waits for minutes
        # where that was killed.
        options = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    try:
        yield ray
    finally:
        ray.shutdown()


def python_path() -> list[str]:
    """Where this process finds a user's own parts: the current folder, and PYTHONPATH."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path.cwd()), *(str(Path(folder).absolute()) for folder in named if folder)]


def find_parts_in(folders: list[str]) -> None:
    """In a worker: look for a user's own parts where the driver does."""
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]


def _require_answer(address: str) -> None:
    """Ray itself would try for minutes without a word."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise RequestError(
            f"no Ray cluster answers at {address}: {error}",
            where="RAY_ADDRESS",
            mend="start it (ray start --head), correct the address, or unset it to run here alone",
        ) from None
