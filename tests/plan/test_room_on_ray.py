"""What placement reserves, Ray's own scheduler grants: nodes of made-up size on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.job import TrainJob, build_job
from orchestrator.training.placement import cluster_nodes, total_reserved_cpus


@pytest.fixture
def ray_of_three_nodes() -> Iterator[Any]:
    """A head of 16 cores and two nodes of 8 GPUs and 192 cores, as Ray believes."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "num_gpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=192, num_gpus=8)
        ray.init(address=cluster.address, log_to_driver=False)
        yield ray
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.integration
def test_sixteen_workers_find_room_beside_a_head(ray_of_three_nodes: Any) -> None:
    """All cores over all workers would be 24.93 each, and no node can hold eight of those."""
    from ray.util.placement_group import placement_group

    job = build_job(
        {
            "kind": "train",
            "name": "wide",
            "data": {"source": "videos"},
            "optim": {"steps": 10},
            "scale": {"workers": 16, "global_batch": 384},
        }
    )
    assert isinstance(job, TrainJob)
    assert len(cluster_nodes()) == 3
    share = total_reserved_cpus(job) / 16
    bundles = [{"CPU": share, "GPU": 1.0}] * 16
    assert placement_group(bundles, strategy="PACK").wait(120)
    assert not placement_group([{"CPU": 24.93, "GPU": 1.0}] * 16).wait(3)
