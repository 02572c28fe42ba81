"""Port forwards to a cluster's pages, Ray's dashboard and MLflow, on loopback addresses.

ssh and kubectl open them with their own credentials. The token of the dashboard is not used: the
browser asks for it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.cluster_profile import Aws, Gcp, KubeRay, OnPrem, Profile, Slurm
from orchestrator.errors import JobFailed, RequestError

HOST = "127.0.0.1"
DASHBOARD_PORT = 8265
OPEN_TIMEOUT_S = 30.0
_LOOPBACK = (HOST, "localhost", "::1")


@dataclass(frozen=True)
class Tunnel:
    """A command that forwards local ports while it runs."""

    command: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True)
class ClusterPages:
    """URLs of a cluster's pages, and the tunnels that they need."""

    urls: dict[str, str]
    tunnels: tuple[Tunnel, ...]
    notes: tuple[str, ...] = ()


def cluster_pages(profile: Profile, port: int) -> ClusterPages:
    """URLs of a cluster's pages on this machine; `port` is the local port of a tunnel to MLflow.

    Raises:
        RequestError: the profile has no address of a page.
    """
    if isinstance(profile, KubeRay):
        return _kubernetes_pages(profile, port)
    if isinstance(profile, OnPrem):
        return _ssh_pages(profile, port)
    pages, notes = {}, []
    if isinstance(profile, Slurm):
        notes.append(
            "Ray's dashboard lives with a job's allocation: orchestrator jobs status NAME --to"
            f" {profile.name}"
        )
    elif profile.address:
        pages["dashboard"] = profile.address
    if isinstance(profile, (Aws, Gcp)) and _is_loopback(profile.address):
        notes.append(
            "only Ray's launcher knows the head's address: `ray dashboard DIR/cluster.yaml` opens"
            " the dashboard's tunnel, with the file that `cluster render` has written"
        )
    if profile.mlflow:
        pages["mlflow"] = profile.mlflow
    if not pages and not notes:
        raise RequestError(
            f"the profile of '{profile.name}' says neither where Ray's dashboard is nor MLflow",
            where="address",
            hint="add address: http://HOST:8265, or mlflow: http://HOST:5000",
        )
    return ClusterPages(pages, (), tuple(notes))


def _kubernetes_pages(profile: KubeRay, port: int) -> ClusterPages:
    dashboard = _local_port(profile)
    head = f"service/{profile.name}-head-svc"
    tunnels = [_forward(profile.namespace, head, dashboard, DASHBOARD_PORT)]
    pages = {"dashboard": f"http://{HOST}:{dashboard}"}
    if profile.mlflow:
        # SERVICE.NAMESPACE.svc resolves inside the cluster only; other names need no tunnel.
        url = urlsplit(profile.mlflow)
        name = (url.hostname or "").split(".")
        if len(name) >= 3 and name[2] == "svc":
            tunnels.append(_forward(name[1], f"service/{name[0]}", port, url.port or 80))
            pages["mlflow"] = f"http://{HOST}:{port}"
        else:
            pages["mlflow"] = profile.mlflow
    return ClusterPages(pages, tuple(tunnels))


def _forward(namespace: str, service: str, local: int, remote: int) -> Tunnel:
    command = ("kubectl", "--namespace", namespace, "port-forward", "--address", HOST)
    return Tunnel((*command, service, f"{local}:{remote}"), (local,))


def _ssh_pages(profile: OnPrem, port: int) -> ClusterPages:
    """Pages through one ssh to the head, which can reach MLflow."""
    dashboard = _local_port(profile)
    to = [(dashboard, HOST, DASHBOARD_PORT)]
    pages = {"dashboard": f"http://{HOST}:{dashboard}"}
    if profile.mlflow:
        url = urlsplit(profile.mlflow)
        to.append((port, url.hostname or HOST, url.port or 80))
        pages["mlflow"] = f"http://{HOST}:{port}"
    forwards = [
        part for here, host, there in to for part in ("-L", f"{HOST}:{here}:{host}:{there}")
    ]
    command = ("ssh", "-N", "-o", "ExitOnForwardFailure=yes", *forwards)
    login = f"{profile.user}@{profile.hosts[0]}"
    return ClusterPages(pages, (Tunnel((*command, "--", login), tuple(here for here, _, _ in to)),))


def _local_port(profile: Profile) -> int:
    """The local port: that of the profile's address, so that `submit` uses the same tunnel."""
    if profile.address and _is_loopback(profile.address):
        return urlsplit(profile.address).port or DASHBOARD_PORT
    return DASHBOARD_PORT


def _is_loopback(address: str | None) -> bool:
    return address is not None and urlsplit(address).hostname in _LOOPBACK


@contextmanager
def open_tunnels(tunnels: Sequence[Tunnel]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the tunnels; they are open inside the context and closed on exit.

    Raises:
        RequestError: a local port is in use, or ssh or kubectl is not installed.
        JobFailed: a tunnel ended, or did not open in time.
    """
    for tunnel in tunnels:
        for port in tunnel.ports:
            _require_free(port)
        _require_tool(tunnel.command[0])
    with ExitStack() as stack:
        running = []
        for tunnel in tunnels:
            process = subprocess.Popen(tunnel.command, stdout=subprocess.DEVNULL)
            stack.callback(_end, process)
            running.append(process)
        for tunnel, process in zip(tunnels, running, strict=True):
            _wait_until_open(tunnel, process)
        yield running


def keep_open(
    tunnels: Sequence[Tunnel], ready: Callable[[], None], say: Callable[[str], None]
) -> None:
    """Open the tunnels, call `ready`, and keep them until Ctrl-C.

    Raises:
        RequestError: as `open_tunnels`.
        JobFailed: a tunnel did not open, or ended by itself.
    """
    try:
        with open_tunnels(tunnels) as running:
            ready()
            while all(process.poll() is None for process in running):
                time.sleep(0.2)
    except KeyboardInterrupt:
        say("the tunnels are closed")
        return
    raise JobFailed("a tunnel ended; what it said stands above", hint="open it again")


def _wait_until_open(tunnel: Tunnel, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if all(_port_is_open(port) for port in tunnel.ports):
            return
        time.sleep(0.1)
    raise JobFailed(
        f"no tunnel by {tunnel.command[0]}; what it said stands above",
        where=tunnel.command[-1],
        hint="see whether this machine reaches the cluster, with --print and by hand",
    )


def _port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _require_free(port: int) -> None:
    if _port_is_open(port):
        raise RequestError(
            f"port {port} of {HOST} is taken",
            hint="a tunnel may be open already; end what runs there, or use --port for MLflow's",
        )


def _require_tool(name: str) -> None:
    if shutil.which(name) is None:
        raise RequestError(f"{name} is not installed", hint=f"install {name}, or use --print")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
