"""`ui --to CLUSTER`: the right tunnel for every kind of cluster, on loopback, ended with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster_profile import load_profile
from orchestrator.clusters.tunnels import cluster_pages, open_tunnels
from orchestrator.errors import JobFailed, RequestError
from tests.support.ports import free_port
from tests.support.waiting import TIMEOUT_S

NODES = {"head": {"cpus": 4, "memory": "8GiB"}}

# What ssh does with `-L 127.0.0.1:PORT:...`, as far as this test sees it.
SSH = f"""#!{sys.executable}
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
heard = []
for flag, value in zip(sys.argv, sys.argv[1:]):
    if flag == "-L":
        host, port = value.split(":")[:2]
        heard.append(socket.create_server((host, int(port))))
signal.pause()
"""


def a_file(folder: Path, **keys: Any) -> str:
    path = folder / "there.yaml"
    path.write_text(yaml.safe_dump({"name": "jepa", "nodes": NODES, **keys}))
    return str(path)


def commands(folder: Path, **keys: Any) -> tuple[list[str], dict[str, str]]:
    found = cluster_pages(load_profile(a_file(folder, **keys)), 5001)
    return [" ".join(tunnel.command) for tunnel in found.tunnels], found.urls


def test_kubernetes_forwards_the_services(tmp_path: Path) -> None:
    made, pages = commands(
        tmp_path, kind="kuberay", namespace="lab", mlflow="http://mlflow.tracking.svc:5000"
    )
    forward = "port-forward --address 127.0.0.1 service/"
    assert made == [
        f"kubectl --namespace lab {forward}jepa-head-svc 8265:8265",
        f"kubectl --namespace tracking {forward}mlflow 5001:5000",
    ]
    assert pages == {"dashboard": "http://127.0.0.1:8265", "mlflow": "http://127.0.0.1:5001"}
    made, pages = commands(tmp_path, kind="kuberay", mlflow="https://mlflow.example.org")
    assert len(made) == 1
    assert pages["mlflow"] == "https://mlflow.example.org"


def test_a_rack_is_reached_by_one_ssh(tmp_path: Path) -> None:
    made, pages = commands(
        tmp_path,
        kind="onprem",
        hosts=["node-0", "node-1"],
        user="me",
        address="http://127.0.0.1:9000",
        mlflow="http://tracker:5000",
    )
    assert made == [
        "ssh -N -o ExitOnForwardFailure=yes -L 127.0.0.1:9000:127.0.0.1:8265"
        " -L 127.0.0.1:5001:tracker:5000 -- me@node-0"
    ]
    assert pages["dashboard"] == "http://127.0.0.1:9000"  # where the profile says `submit` looks


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": "slurm", "workdir": "/w", "mlflow": "http://m:5000"}, "jobs status NAME"),
        ({"kind": "aws", "region": "r", "address": "http://127.0.0.1:8265"}, "ray dashboard"),
    ],
)
def test_what_has_no_tunnel_of_its_own_says_why(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    nodes = {"head": {**NODES["head"], "instance": "m7i.large"}}
    found = cluster_pages(load_profile(a_file(tmp_path, **keys, nodes=nodes)), 5000)
    assert found.tunnels == ()
    assert said in " ".join(found.notes)


def test_a_profile_without_any_address(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="neither where Ray"):
        cluster_pages(load_profile(a_file(tmp_path, kind="local")), 5000)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "ssh"
    path.parent.mkdir()
    path.write_text(SSH)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def rack(folder: Path, port: int) -> str:
    address = f"http://127.0.0.1:{port}"
    return a_file(
        folder, kind="onprem", hosts=["h"], address=address, token={"env": "MY_RAY_TOKEN"}
    )


@pytest.mark.integration
@pytest.mark.usefixtures("ssh")
def test_the_command_opens_a_tunnel_and_closes_it_with_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_RAY_TOKEN", "hush-hush")
    port = free_port()
    command = [sys.executable, "-m", "orchestrator", "ui", "--no-browser", "--to"]
    process = subprocess.Popen(
        [*command, rack(tmp_path, port)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal: what a shell starts in the background ignores Ctrl-C, its children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[0] == f"dashboard: http://127.0.0.1:{port}\n"
    assert "MY_RAY_TOKEN" in lines[1]
    socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S).close()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0
    assert "closed" in rest
    assert "hush-hush" not in "".join(lines) + rest
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def test_a_tunnel_that_fails_and_a_port_that_is_taken(
    ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh.write_text("#!/bin/sh\nexit 255\n")
    port = free_port()
    tunnels = cluster_pages(load_profile(rack(tmp_path, port)), 5000).tunnels
    monkeypatch.setattr("orchestrator.clusters.tunnels.OPEN_TIMEOUT_S", 300)
    began = time.monotonic()
    with pytest.raises(JobFailed, match="no tunnel by ssh"), open_tunnels(tunnels):
        pass
    assert time.monotonic() - began < 150  # when ssh ends, not when patience does
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RequestError, match="is taken"),
        open_tunnels(tunnels),
    ):
        pass


@pytest.mark.integration
def test_print_opens_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "ui", "--print", "--to"]
    done = subprocess.run(
        [*command, rack(tmp_path, free_port())], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ssh -N ")
    assert "-- root@h" in done.stdout
