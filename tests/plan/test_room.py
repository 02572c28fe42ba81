"""Where workers find room: on nodes, not on a sum of cores."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.estimate.worker_capacity import NodeResources, cpus_per_worker, max_workers
from orchestrator.job import Scale, TrainJob, build_job
from orchestrator.training.placement import (
    available_nodes,
    resources_per_worker,
    total_reserved_cpus,
)
from orchestrator.tuning.capacity import sweep_capacity

HEAD, GPU_NODE = NodeResources(16), NodeResources(192, 8)


@pytest.mark.parametrize(
    ("nodes", "workers", "on_gpus", "share"),
    [
        # The head's cores are no use beside a GPU node's eight: 24 each, not (400 - 1) / 16.
        ([HEAD, GPU_NODE, GPU_NODE], 16, True, 24.0),
        # Nor are those of nodes that sixteen workers do not need.
        ([HEAD] + [GPU_NODE] * 128, 16, True, 24.0),
        ([HEAD] + [GPU_NODE] * 128, 1024, True, 24.0),
        # Without a head one core of a node is left for data.
        ([GPU_NODE, GPU_NODE], 16, True, 23.93),
        ([NodeResources(96, 8), GPU_NODE], 16, True, 12.0),
        # Three nodes of four cores hold four workers only as two by two.
        ([NodeResources(4)] * 3, 4, False, 2.0),
        ([NodeResources(2)], 2, False, 0.49),
    ],
)
def test_the_share_lets_all_workers_find_room(
    nodes: list[NodeResources], workers: int, on_gpus: bool, share: float
) -> None:
    found = cpus_per_worker(nodes, workers, on_gpus)
    assert found == share
    assert max_workers(nodes, found, on_gpus) >= workers


def a_job(**scale: Any) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "wide",
            "data": {"source": "videos"},
            "optim": {"steps": 10},
            "scale": {"global_batch": 3072, **scale},
        }
    )
    assert isinstance(job, TrainJob)
    return job


@pytest.fixture
def ray_of_129_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray as the driver sees it on a head node and 128 nodes of 8 GPUs; one more has died."""

    def seen(node: NodeResources, alive: bool = True) -> dict[str, Any]:
        resources = {"CPU": node.cpus, "memory": 2.0**41}
        return {"Alive": alive, "Resources": resources | ({"GPU": node.gpus} if node.gpus else {})}

    nodes = [seen(HEAD), *[seen(GPU_NODE) for _ in range(128)], seen(GPU_NODE, alive=False)]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: nodes))


@pytest.mark.usefixtures("ray_of_129_nodes")
def test_1024_workers_are_placed_on_128_nodes() -> None:
    """A placement of Ray's holds only if every node can hold its bundles."""
    reserved = total_reserved_cpus(a_job(workers=1024, zero=2))
    assert reserved / 1024 * 8 <= GPU_NODE.cpus
    assert reserved / 1024 > 20  # and cores that could decode are not left idle
    elastic = total_reserved_cpus(a_job(workers={"min": 512, "max": 1024}))
    assert elastic == 1024 * 24


@pytest.mark.usefixtures("ray_of_129_nodes")
@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"workers": 1032}, "1032 workers need 1032 GPUs, the cluster has 1024"),
        ({"workers": 1024, "cpus": 30.0}, "leave less than half a core"),
        # Enough cores in all, but a node holds seven of these workers, not eight.
        ({"workers": 1000, "cpus": 24.5}, "hold 896 of them"),
        ({"workers": 200, "cpus": 100.0, "device": "cpu"}, "hold 128 of them"),
    ],
)
def test_a_job_that_no_placement_holds_is_refused_at_once(scale: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        total_reserved_cpus(a_job(**scale))


GROWS = [{"count": 130, "cpus": 192, "gpus": 8}]


@pytest.mark.usefixtures("ray_of_129_nodes")
def test_nodes_that_start_on_demand_count() -> None:
    """Two more than are there; the head is none of them."""
    assert total_reserved_cpus(a_job(workers=1040, nodes=GROWS)) == 1040 * 24
    with pytest.raises(RequestError, match="1048 workers need 1048 GPUs, the cluster has 1040"):
        total_reserved_cpus(a_job(workers=1048, nodes=GROWS))


def test_a_cluster_without_a_gpu_yet_trains_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"Alive": True, "Resources": {"memory": 2.0**36}}  # it only leads
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: [head]))
    assert resources_per_worker(
        a_job(workers=16, nodes=GROWS), available_nodes(a_job(nodes=GROWS).scale)
    ) == (
        True,
        24.0,
    )


def test_a_sweep_fills_128_nodes_with_trials() -> None:
    nodes = [HEAD] + [GPU_NODE] * 128
    room = sweep_capacity(Scale(workers=16), nodes)
    assert room.max_concurrent_trials == 64
    assert room.cpus_per_worker * 8 <= GPU_NODE.cpus
