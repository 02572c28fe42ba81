"""The preStop hook of pods: drains a worker, or lets the drivers on the head save.

    python -m orchestrator.clusters.prestop_hook worker --seconds 285

A worker tells Ray that its node goes: the training saves after its present step and goes on
elsewhere. A head asks the drivers that run beside it to save and end. Either then waits, since the
pod is stopped when the hook returns.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

POLL_S = 1.0
_RPC_TIMEOUT_S = 10.0
_INTERNAL = "_ray_internal"
"""Namespace prefix of Ray's own drivers, such as the dashboard's."""


def drain_worker(gcs: Any, ip: str, seconds: float) -> bool:
    """Drain the node with address `ip`, and wait until it is gone or the time is up.

    False where Ray does not accept it.
    """
    node = _node_of(gcs, ip)
    if node is None:
        return True
    # By Ray's command: the same call from this process ended a busy node at once.
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--address", gcs.address, "--node-id", node.hex()]
    options += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "pod is stopped"]
    options += ["--deadline-remaining-seconds", str(int(seconds))]
    done = subprocess.run([ray, "drain-node", *options], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"Ray does not let the node go: {done.stderr}", file=sys.stderr)
        return False
    _wait(lambda: _node_of(gcs, ip) is None, seconds)
    return True


def stop_drivers(gcs: Any, ip: str, seconds: float) -> None:
    """Ask the drivers at `ip` to save and end, and wait until they have, or the time is up."""
    drivers = list(_drivers_at(gcs, ip))
    for pid in drivers:
        _signal(pid, signal.SIGTERM)
    _wait(lambda: not any(map(_is_alive, drivers)), seconds)


def _node_of(gcs: Any, ip: str) -> Any:
    from ray.core.generated import gcs_pb2

    for node_id, node in gcs.get_all_node_info(timeout=_RPC_TIMEOUT_S).items():
        alive = node.state == gcs_pb2.GcsNodeInfo.ALIVE
        if alive and node.node_manager_address == ip and not node.is_head_node:
            return node_id
    return None


def _drivers_at(gcs: Any, ip: str) -> Iterator[int]:
    for job in gcs.get_all_job_info(timeout=_RPC_TIMEOUT_S).values():
        internal = job.config.ray_namespace.startswith(_INTERNAL)
        if not job.is_dead and not internal and job.driver_ip_address == ip:
            yield job.driver_pid


def _wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():
        time.sleep(POLL_S)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    return _signal(pid, 0)


def main() -> None:
    """Run the hook. The exit code is 0 even if it fails, because a failure delays the pod's end."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.clusters.prestop_hook")
    parser.add_argument("role", choices=["head", "worker"])
    parser.add_argument("--seconds", type=float, required=True, help="Seconds to wait at most.")
    args = parser.parse_args()
    import ray
    from ray.util import get_node_ip_address

    ip = get_node_ip_address()
    try:
        gcs = ray._raylet.GcsClient(address=os.environ.get("RAY_ADDRESS", f"{ip}:6379"))
        (stop_drivers if args.role == "head" else drain_worker)(gcs, ip, args.seconds)
    except Exception as error:  # the cluster is gone already: there is nothing to save
        print(f"left without notice: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
