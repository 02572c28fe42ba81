"""What a pod's hook does: a node is drained, a driver is asked once, and both are waited for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.clusters.prestop_hook import drain_worker, stop_drivers

HERE = "10.0.0.1"
DRIVER = """
import signal, sys, time
def save(number, frame):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


class Gcs:
    """Of Ray's client what the hook asks: drivers, nodes, and a drain."""

    def __init__(self, **drivers: tuple[int, str, str]) -> None:
        self._jobs = {
            name: SimpleNamespace(
                is_dead=name == "dead",
                driver_pid=pid,
                driver_ip_address=ip,
                config=SimpleNamespace(ray_namespace=namespace),
            )
            for name, (pid, ip, namespace) in drivers.items()
        }

    def get_all_job_info(self, timeout: float) -> dict[str, Any]:
        return self._jobs


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    # A parent that does not reap would keep the process alive in name.
    threading.Thread(target=process.wait, daemon=True).start()
    yield process
    process.kill()


@pytest.mark.integration
def test_a_driver_of_this_node_saves_before_the_hook_returns(
    driver: subprocess.Popen[str],
) -> None:
    stop_drivers(Gcs(one=(driver.pid, HERE, "anonymous")), HERE, 30)
    assert driver.poll() == 143
    assert driver.stdout is not None
    assert driver.stdout.read() == "saved\n"


def test_others_drivers_and_rays_own_are_let_be(driver: subprocess.Popen[str]) -> None:
    elsewhere = (driver.pid, "10.0.0.2", "anonymous")
    internal = (driver.pid, HERE, "_ray_internal_dashboard")
    ended = (driver.pid, HERE, "anonymous")
    stop_drivers(Gcs(elsewhere=elsewhere, internal=internal, dead=ended), HERE, 5)
    assert driver.poll() is None


@pytest.mark.integration
def test_a_driver_that_does_not_end_is_not_waited_for_longer_than_said() -> None:
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    try:
        stop_drivers(Gcs(one=(process.pid, HERE, "anonymous")), HERE, 2)
        assert 1.5 < time.monotonic() - began < 300
    finally:
        process.kill()
        process.wait()


HOLDS = """
import sys, time, ray

@ray.remote(num_cpus=1)
def hold():
    time.sleep(300)

ray.init(address=sys.argv[1])
held = hold.remote()
while ray.available_resources().get("CPU", 0) > 0:
    time.sleep(0.2)
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.integration
def test_a_worker_is_drained_and_waited_for_while_it_works() -> None:
    """On a real cluster: what training asks of Ray says that the node goes, and until when."""
    from ray import _raylet
    from ray.cluster_utils import Cluster
    from ray.core.generated import gcs_pb2

    cluster = Cluster()
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.41", include_dashboard=False)
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.42")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, cluster.address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert any(line == "held\n" for line in holder.stdout)
        gcs = _raylet.GcsClient(address=cluster.address)
        leaving = threading.Thread(target=drain_worker, args=(gcs, "127.0.0.42", 12.0))
        began = time.monotonic()
        leaving.start()
        time.sleep(5)
        alive = gcs_pb2.GcsNodeInfo.ALIVE
        nodes = gcs.get_all_node_info(timeout=60)
        drained = [
            node_id.hex()
            for node_id, node in nodes.items()
            if node.state == alive and node.node_manager_address == "127.0.0.42"
        ]
        assert len(drained) == 1, "the node works on until its deadline"
        assert leaving.is_alive(), "the hook waits, or the pod would be stopped"
        leaving.join(120)
        assert time.monotonic() - began >= 10
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        cluster.shutdown()
