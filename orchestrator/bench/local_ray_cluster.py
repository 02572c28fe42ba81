"""A Ray cluster of several nodes on this machine, whose nodes and head can be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from orchestrator.bench.fault_injection import RunHarness


class LocalRayCluster:
    """A Ray cluster of a head without cores and nodes of one core each, on this machine."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self._nodes: list[Any] = []
        self._added = 0
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        """As RAY_ADDRESS takes it."""
        return str(self._cluster.address)

    def add(self) -> None:
        """A fresh node joins, at an address of its own: a driver joins the head's, not this.

        No other process's cluster uses the address: two raylets of one address that start together
        may choose the same ports, and one of them then runs no actor.
        """
        self._added += 1
        own = os.getpid()
        address = f"127.{1 + own // 250 % 250}.{own % 250}.{1 + self._added}"
        self._nodes.append(self._cluster.add_node(num_cpus=1, node_ip_address=address))

    def kill_node(self, pid: int | None = None) -> None:
        """Kill the node of process `pid`, or the oldest, with all its processes."""
        node = self._nodes[0] if pid is None else self._node_of(pid)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the head: no node can join any more."""
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def _node_of(self, pid: int) -> Any:
        above = {parent.pid for parent in psutil.Process(pid).parents()}
        return next(
            node
            for node in self._nodes
            if any(one.process.pid in above for one in node.all_processes["raylet"])
        )

    def drain_one(self, deadline_s: float) -> None:
        """The oldest node gets notice: it goes in `deadline_s` seconds, as a spot machine does."""
        command = ["drain-node", "--address", self.address, "--node-id", self._nodes[0].node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
        command += ["--deadline-remaining-seconds", str(int(deadline_s))]
        ray = Path(sys.executable).with_name("ray")
        subprocess.run([str(ray), *command], check=True, capture_output=True)

    def close(self) -> None:
        self._cluster.shutdown()


@contextmanager
def local_ray_cluster(arena: RunHarness, spare: int) -> Iterator[LocalRayCluster]:
    """The arena's runs join a cluster with a node for each worker, and some to spare.

    Several nodes need an MLflow server: one serves the arena's runs meanwhile.
    """
    from orchestrator.tracking.server import mlflow_client
    from orchestrator.tracking.ui import run_mlflow_server

    store = f"sqlite:///{arena.storage.uri('mlflow/mlflow.db')}"
    mlflow_client(store).search_experiments()  # makes it, if no run has yet
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    nodes = LocalRayCluster(arena.job.scale.max_workers + spare)
    try:
        with run_mlflow_server(store, port) as (page, _):
            arena.env |= {"RAY_ADDRESS": nodes.address, "MLFLOW_TRACKING_URI": page}
            yield nodes
    finally:
        for variable in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            arena.env.pop(variable, None)
        nodes.close()
