"""Who can listen: every socket of a run on this machine listens on loopback."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_rollback import diverging_job

from orchestrator.job import job_dict
from orchestrator.training.loopback_rendezvous import is_loopback, open_tcp_store

LEAST_SERVERS = 6
"""GCS, raylet, agents, workers: a run of two workers has more."""


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """(what listens, address) of a process's TCP sockets."""
    try:
        sockets = process.net_connections(kind="tcp")
        name = " ".join(process.cmdline())[:120]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return set()
    return {(name, one.laddr.ip) for one in sockets if one.status == psutil.CONN_LISTEN}


def on_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def sockets_of(command: list[str], folder: Path) -> tuple[set[tuple[str, str]], str]:
    """All that listened in a command's processes while it ran, and what it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    run = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(run.communicate()[0]))
    reader.start()
    found: set[tuple[str, str]] = set()
    tree = psutil.Process(run.pid)
    deadline = time.monotonic() + 240
    while reader.is_alive() and time.monotonic() < deadline:
        try:
            for process in [tree, *tree.children(recursive=True)]:
                found |= listening(process)
        except psutil.NoSuchProcess:
            pass
        reader.join(0.1)
    if reader.is_alive():
        run.terminate()
        reader.join(30)
    assert run.returncode == 0, said
    return found, said[0]


def small_job(folder: Path, **scale: Any) -> Path:
    data = job_dict(diverging_job(folder, last=0))
    data["objective"] = {"kind": "vjepa2", "ema": 0.9, "masks": data["objective"]["masks"]}
    data["name"] = "sockets"
    data["scale"] |= {"micro_batch": 1, **scale}
    job = folder / "job.yaml"
    job.write_text(json.dumps(data))
    return job


@pytest.mark.integration
def test_a_run_of_two_workers_listens_on_loopback_only(tmp_path: Path) -> None:
    job = small_job(tmp_path, workers=2)
    command = [sys.executable, "-m", "orchestrator", "run", str(job)]
    found, _ = sockets_of(command, tmp_path)
    assert {(name, at) for name, at in found if not on_loopback(at)} == set()
    names = {name for name, _ in found}
    assert sum("RayTrainWorker" in name for name in names) >= 1, names
    assert len(names) >= LEAST_SERVERS, names


@pytest.mark.integration
def test_a_local_run_listens_on_loopback_only(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    command = [sys.executable, "-m", "orchestrator", "run", str(job), "--local"]
    found, _ = sockets_of(command, tmp_path)
    assert {(name, at) for name, at in found if not on_loopback(at)} == set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_store_on_loopback_listens_there_alone(host: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patience = timedelta(seconds=30)
    before = listening(psutil.Process())
    with ThreadPoolExecutor() as pool:  # each waits for the other
        ranks = [
            pool.submit(open_tcp_store, host, port, 2, is_main=leads, timeout=patience)
            for leads in (True, False)
        ]
        server, client = (rank.result() for rank in ranks)
    assert {at for _, at in listening(psutil.Process()) - before} <= {"127.0.0.1"}
    client.set("a", "b")
    assert server.get("a") == b"b"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.1.1", True),
        ("::1", True),
        ("localhost", True),
        ("192.0.2.2", False),
        ("0.0.0.0", False),
        ("node-7", False),
    ],
)
def test_which_hosts_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
