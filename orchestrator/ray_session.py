"""Joining the Ray cluster that RAY_ADDRESS names, or starting one with what this machine has."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import JobFailed, RequestError
from orchestrator.ray_local import bound_to_loopback, local_init_options, single_machine_ray

CONNECT_TIMEOUT_S = 10.0

CLIENT_PORT = 10001
"""Where a cluster's Ray Client server is, unless `ray://` names another port."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+):(?P<port>\d{1,5})")
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How an HTTP/2 client begins, which gRPC is: its preface and empty settings."""


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[Any]:
    """Yield `ray`, connected. A cluster that this call started is stopped at the end.

    RAY_ADDRESS names the cluster to join (`auto`: the one that runs on this machine). Without it
    one starts here with this machine's cores, whatever else runs; it listens on loopback only.

    Raises:
        RequestError: RAY_ADDRESS is no address, or nothing answers there.
        JobFailed: Ray did not start here.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = cluster_address()
    if address is None:
        with single_machine_ray():
            _start(ray, num_cpus)
            yield from _shutdown_after(ray)
    else:
        _join(ray, address)
        yield from _shutdown_after(ray)


def cluster_address() -> str | None:
    """What RAY_ADDRESS names: `auto`, HOST:PORT or ray://HOST:PORT; None: a cluster of this machine
    is to be started.

    Raises:
        RequestError: it is no address.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address in ("", "local"):
        return None
    scheme, separator, rest = address.rpartition("://")
    if separator and scheme != "ray":
        raise _invalid_address(address, f"'{scheme}://' is the address of its web pages")
    if (
        address != "auto"
        and _parse_host_port(rest if separator else address, client=bool(separator)) is None
    ):
        raise _invalid_address(address, "it is no HOST:PORT")
    return address


def _parse_host_port(text: str, *, client: bool) -> tuple[str, int] | None:
    """Host and port of HOST:PORT; the port of a Ray Client server may be left out."""
    text = text.rstrip("/") if client else text
    if client and text and ":" not in text:
        text = f"{text}:{CLIENT_PORT}"
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 2**16:
        return None
    return match["host"].strip("[]"), int(match["port"])


def _invalid_address(address: str, why: str) -> RequestError:
    return RequestError(
        f"'{address}' is not the address of a Ray cluster: {why}",
        where="RAY_ADDRESS",
        hint="write HOST:PORT as `ray start --head` prints it (most often port 6379), ray://HOST:PORT"
        " or auto, or unset it to run here alone",
    )


def _start(ray: Any, num_cpus: int | None) -> None:
    options = {**local_init_options(), "num_cpus": num_cpus}
    try:
        ray.init(**options, **_logging_options())
    except Exception as error:
        with suppress(Exception):
            ray.shutdown()
        raise JobFailed(
            f"Ray did not start on this machine: {_first_line(error)}",
            hint="where the machine is very busy, run the same command again; --local needs no Ray;"
            " --debug shows all",
        ) from error


def _join(ray: Any, address: str) -> None:
    client = address.startswith("ray://")
    if address != "auto":
        parts = _parse_host_port(address.removeprefix("ray://"), client=client)
        assert parts is not None
        _require_reachable(address, *parts)
    try:
        ray.init(address=address, **_logging_options())
    except Exception as error:
        raise RequestError(
            f"cannot join the Ray cluster at {address}: {_first_line(error)}",
            where="RAY_ADDRESS",
            hint="start it (ray start --head), correct the address, or unset it to run here alone",
        ) from error
    if bound_to_loopback() and not client:
        _require_loopback(ray, address)


def _require_loopback(ray: Any, address: str) -> None:
    """Nodes elsewhere could not connect back to this process: they would take it for dead.

    Raises:
        RequestError: the cluster has a node with another address than this machine's loopback.
    """
    nodes = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if all(node.startswith("127.") for node in nodes):
        return
    ray.shutdown()
    raise RequestError(
        f"this Python process has run a job without a cluster, on 127.0.0.1 only; it cannot join"
        f" {address}",
        where="RAY_ADDRESS",
        hint="use another Python process, or set RAY_ADDRESS before the first job",
    )


def _logging_options() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


def _shutdown_after(ray: Any) -> Iterator[Any]:
    try:
        yield ray
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def custom_code_folders() -> list[str]:
    """Where this process finds a user's own parts: the current folder, and PYTHONPATH."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path.cwd()), *(str(Path(folder).absolute()) for folder in named if folder)]


def add_to_sys_path(folders: list[str]) -> None:
    """In a worker: look for a user's own parts where the driver does."""
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]


def _require_reachable(address: str, host: str, port: int) -> None:
    """Ray itself would try for minutes without a word.

    Raises:
        RequestError: nothing answers there, or what does speaks no gRPC (another server).
    """
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as connection:
            why = "" if _is_encrypted() else _not_grpc(connection)
    except OSError as error:
        why = str(error)
    if why:
        raise RequestError(
            f"no Ray cluster answers at {address}: {why}",
            where="RAY_ADDRESS",
            hint="start it (ray start --head), correct the address, or unset it to run here alone",
        )


def _is_encrypted() -> bool:
    return os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")


def _not_grpc(connection: socket.socket) -> str:
    """Why what listens there is no server of Ray's: one answers with its HTTP/2 settings."""
    connection.sendall(_HTTP2)
    head = b""
    while len(head) < 9 and (more := connection.recv(9 - len(head))):
        head += more
    return "" if len(head) == 9 and head[3] == 4 else "another server is there"
