"""Where workers go: what each reserves, and how many the cluster has room for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.estimate.worker_capacity import (
    CPUS_FOR_DATA,
    CPUS_PER_ELASTIC_WORKER,
    NodeResources,
    cpus_per_worker,
    max_workers,
)
from orchestrator.job import Scale, TrainJob
from orchestrator.job.config.scale import ElasticWorkers

GROUP_START_TIMEOUT_S, MIN_GROUP_START_TIMEOUT_S = 600.0, 20.0
"""Seconds that a fixed group waits for room, and an elastic one at least."""


def scaling_config(job: TrainJob) -> Any:
    """Ray Train's ScalingConfig of a job, on the cluster that is joined.

    Raises:
        RequestError: the cluster cannot hold the workers, or they would leave no core for data.
    """
    from ray.train import ScalingConfig

    use_gpu, cpus = resources_per_worker(job, available_nodes(job.scale))
    workers = job.scale.workers
    options: dict[str, Any] = {"num_workers": workers}
    if isinstance(workers, ElasticWorkers):
        options = {
            "num_workers": (workers.min, workers.max),
            "elastic_resize_monitor_interval_s": workers.resize_s,
        }
    return ScalingConfig(
        **options,
        use_gpu=use_gpu,
        resources_per_worker={
            "CPU": cpus,
            **({"GPU": 1} if use_gpu else {}),
        },
    )


def total_reserved_cpus(job: TrainJob) -> float:
    """Cores that all workers reserve together, at most.

    Raises:
        RequestError: as `scaling_config`.
    """
    return job.scale.max_workers * resources_per_worker(job, available_nodes(job.scale))[1]


def resources_per_worker(job: TrainJob, nodes: list[NodeResources]) -> tuple[bool, float]:
    """Whether each worker reserves a GPU on these machines, and how many cores.

    Raises:
        RequestError: as `scaling_config`.
    """
    use_gpu = _use_gpu(job, nodes)
    return use_gpu, _cpus_per_worker(job, nodes, use_gpu)


def set_ray_train_timeouts(job: TrainJob) -> None:
    """How long Ray Train waits; it takes this from the environment only, before a trainer starts.

    For a frozen worker, and at its own meetings of all ranks: by default ten minutes, and for
    ever. For room for a group: a slow cluster pulls images first, but an elastic group that does
    not find the room it was promised is better sized anew.
    """
    timeout = str(max(1, round(job.scale.timeout)))
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", timeout)
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", timeout)
    workers = job.scale.workers
    start = (
        max(MIN_GROUP_START_TIMEOUT_S, workers.resize_s)
        if isinstance(workers, ElasticWorkers)
        else GROUP_START_TIMEOUT_S
    )
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(round(start)))


def available_nodes(scale: Scale) -> list[NodeResources]:
    """The machines of the Ray cluster that is joined, and those that it starts when asked."""
    there = cluster_nodes()
    return [*there, *autoscaled_nodes(scale, there)]


def cluster_nodes() -> list[NodeResources]:
    """The machines of the Ray cluster that is joined."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeResources(float(one.get("CPU", 0)), float(one.get("GPU", 0))) for one in found]


def autoscaled_nodes(scale: Scale, present: Sequence[NodeResources]) -> list[NodeResources]:
    """Machines that the cluster has at most (`scale.nodes`) and that are not there yet."""
    groups: Counter[NodeResources] = Counter()
    for group in scale.nodes:
        groups[NodeResources(float(group.cpus), float(group.gpus))] += group.count
    return list((groups - Counter(present)).elements())


def _use_gpu(job: TrainJob, nodes: list[NodeResources]) -> bool:
    gpus, least = int(sum(node.gpus for node in nodes)), job.scale.min_workers
    if job.scale.device == "cpu" or (job.scale.device == "auto" and gpus == 0):
        return False
    # An elastic job may wait for nodes; a fixed one that does not fit would wait for ever.
    if gpus < least and not isinstance(job.scale.workers, ElasticWorkers):
        raise RequestError(
            f"{least} workers need {least} GPUs, the cluster has {gpus}",
            where="scale.workers",
            hint=f"set scale.workers={max(gpus, 1)}, or scale.device=cpu",
        )
    return True


def _cpus_per_worker(job: TrainJob, nodes: list[NodeResources], use_gpu: bool) -> float:
    """Cores that a worker reserves; one core of the cluster is left to read data."""
    workers = job.scale.workers
    if isinstance(workers, ElasticWorkers):
        # The cluster of today says nothing of tomorrow's: each takes the same wherever it is.
        gpus = int(sum(node.gpus for node in nodes))
        whole = (
            cpus_per_worker(nodes, gpus, use_gpu) // 1
            if use_gpu and gpus
            else CPUS_PER_ELASTIC_WORKER
        )
        return float(job.scale.cpus or max(1.0, whole))
    share = job.scale.cpus or cpus_per_worker(nodes, workers, use_gpu)
    cores = sum(node.cpus for node in nodes)
    if share * workers > cores - CPUS_FOR_DATA:
        raise RequestError(
            f"{workers} workers x {share:g} CPUs leave less than half a core of {cores:g} for data",
            where="scale.cpus",
            hint="lower scale.cpus or scale.workers",
        )
    room = max_workers(nodes, share, use_gpu)
    if room < workers:
        # Enough in all, but on no node a place for the last of them: they would wait for ever.
        what = "a GPU and " if use_gpu else ""
        raise RequestError(
            f"{workers} workers, each with {what}{share:g} CPUs, do not fit: the {len(nodes)} nodes"
            f" hold {room} of them",
            where="scale.cpus",
            hint="lower scale.cpus or scale.workers",
        )
    return share
