"""Two Ray nodes on this machine, started as a person would, and an MLflow server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import yaml

from orchestrator.tracking.server import mlflow_client
from orchestrator.tracking.ui import run_mlflow_server
from tests.support.ports import free_port

TOKEN = "a-token-for-this-test-only"
_UP_S = 180.0


@dataclass(frozen=True)
class ClusterProject:
    """A folder to submit from: code, a profile `here`, and the variables of a person's shell."""

    folder: Path
    env: dict[str, str]
    mlflow: str

    def run_cli(self, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        """`orchestrator WORDS` in the folder."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self.folder,
            env={**self.env, "RAY_AUTH_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=300,
        )


@contextmanager
def two_node_cluster(folder: Path) -> Iterator[ClusterProject]:
    """Head and one more node, token asked for; all of it is stopped at the end."""
    dashboard, port, *agents = free_ports(6)
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW"))
    }
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "token"}
    env |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # at the end nothing works here any more
    # Ray's job server starts `python`: this one.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    # Sockets lie in them, and their paths must be short. Each node has its own, as machines do: in
    # one folder a node removes the code that the other one still runs.
    temps = [Path(f"/tmp/ray-{os.getpid()}-{i}") for i in range(2)]
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}"]
    head += ["--node-ip-address=127.0.0.1", f"--ray-client-server-port={agents[2]}"]
    other = [f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.2"]
    nodes = []
    try:
        for options, agent, temp in zip((head, other), agents, temps, strict=False):
            options += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temp}"]
            options += ["--num-cpus=1"]
            nodes.append(start_node(options, env))
            wait_for_nodes(dashboard, len(nodes))
        store = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow_client(store).search_experiments()  # makes it
        with run_mlflow_server(store, agents[3]) as (page, _):
            yield ClusterProject(_project(folder, dashboard, page), env, page)
    finally:
        for node in reversed(nodes):
            stop_node(node)
        for temp in temps:
            shutil.rmtree(temp, ignore_errors=True)


def start_node(options: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--block", "--disable-usage-stats", *options]
    return subprocess.Popen(
        command,
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_nodes(dashboard: int, count: int) -> None:
    until = time.monotonic() + _UP_S
    url = f"http://127.0.0.1:{dashboard}/nodes?view=summary"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    while time.monotonic() < until:
        try:
            found = requests.get(url, headers=headers, timeout=5).json()["data"]["summary"]
            if sum(node["raylet"].get("state") == "ALIVE" for node in found) >= count:
                return
        except (requests.RequestException, ValueError, KeyError):
            pass
        time.sleep(0.5)
    raise TimeoutError(f"no cluster of {count} nodes after {_UP_S:.0f} s")


def stop_node(node: subprocess.Popen[bytes]) -> None:
    """Ray's own way first; then all that its session still has."""
    node.terminate()
    try:
        node.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def _project(folder: Path, dashboard: int, mlflow: str) -> Path:
    """A folder of a user's with a profile and nothing else."""
    project = folder / "project"
    (project / "cluster").mkdir(parents=True)
    profile = {
        "kind": "local",
        "address": f"http://127.0.0.1:{dashboard}",
        "nodes": {
            "head": {"cpus": 1, "memory": "4GiB"},
            "other": {"cpus": 1, "memory": "4GiB"},
        },
        "storage": str(folder / "storage"),
        "mlflow": mlflow,
        "env": {"GLOO_SOCKET_IFNAME": "lo"},
    }
    (project / "cluster" / "here.yaml").write_text(yaml.safe_dump(profile))
    (project / "README.md").write_text("A project.\n")
    return project


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
