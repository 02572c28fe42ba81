"""A cluster without workers that starts them when a job asks: Ray's own autoscaler, its nodes
being raylets of this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from test_submit_for_real import QUICK, SMALL

from orchestrator.tracking.server import mlflow_client
from orchestrator.tracking.ui import run_mlflow_server
from tests.support.ray_cluster import (
    TOKEN,
    ClusterProject,
    free_ports,
    start_node,
    stop_node,
    wait_for_nodes,
)

# Ray's provider of made-up nodes knows a head of this name and id, at this port, and no other.
_HEAD_TYPE, _HEAD_ID, _PORT = "ray.head.default", "f" * 51 + "00000", 6379
_WORKER = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
_HEAD = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
COMING = "[{count: 2, cpus: 1}]"
_COMMANDS = ("initialization", "setup", "head_setup", "worker_setup")
_COMMANDS += ("head_start_ray", "worker_start_ray")
AUTOSCALING = {
    "cluster_name": "on-demand",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "provider": {
        "type": "fake_multinode",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {_HEAD_TYPE: _HEAD, "work": _WORKER},
    "head_node_type": _HEAD_TYPE,
    "auth": {"ssh_user": "nobody"},
    "file_mounts": {},
    **{f"{what}_commands": [] for what in _COMMANDS},
    "cluster_synced_files": [],
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ClusterProject]:
    """A head that only leads, and an MLflow server."""
    dashboard, agent, client, page_port = free_ports(4)
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "token"}
    env |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    env |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
    env |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    (tmp_path / "autoscaling.json").write_text(yaml.safe_dump(AUTOSCALING))
    temp = Path(f"/tmp/ray-{os.getpid()}-d")
    head = start_node(
        [
            "--head",
            "--num-cpus=0",
            f"--port={_PORT}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={temp}",
            f"--autoscaling-config={tmp_path / 'autoscaling.json'}",
        ],
        env,
    )
    try:
        wait_for_nodes(dashboard, 1)
        store = f"sqlite:///{tmp_path / 'mlflow.db'}"
        mlflow_client(store).search_experiments()  # makes it
        with run_mlflow_server(store, page_port) as (page, _):
            env |= {"MLFLOW_TRACKING_URI": page, "GLOO_SOCKET_IFNAME": "lo"}
            env |= {"RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{_PORT}"}
            yield ClusterProject(tmp_path, env, page)
    finally:
        stop_node(head)
        shutil.rmtree(temp, ignore_errors=True)


@pytest.mark.nightly
def test_a_fixed_job_waits_for_nodes_that_start_for_it(place: ClusterProject) -> None:
    """Through `run`: these nodes share a folder, and take each other's copy of sent code away."""
    done = place.run_cli("run", QUICK, *SMALL, "optim.steps=3")
    assert done.returncode == 2
    assert "leave less than half a core of" in done.stderr
    done = place.run_cli("run", QUICK, *SMALL, "optim.steps=3", f"scale.nodes={COMING}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done physics-quick: 3 steps" in done.stdout
