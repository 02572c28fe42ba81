"""Where workers go: what each reserves, and how many the cluster has room for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.job import TrainJob
from orchestrator.job.train import Elastic

ELASTIC_CPUS = 1.0
"""Cores of an elastic worker without a GPU, where the job does not say."""

START_S, LEAST_START_S = 600.0, 20.0
"""Seconds that a fixed group waits for room, and an elastic one at least."""


@dataclass(frozen=True)
class Room:
    """What Ray deals out of a node."""

    cpus: float
    gpus: int = 0


@dataclass(frozen=True)
class Share:
    """What a worker reserves."""

    cpus: float
    gpu: bool

    def places(self, room: Room) -> int:
        """Workers that a node has room for."""
        by_cpus = int(room.cpus / self.cpus + 1e-6)
        return min(by_cpus, room.gpus) if self.gpu else by_cpus


def share(job: TrainJob, cores: float, gpus: int) -> Share:
    """What a worker of `job` reserves on a cluster with so many cores and GPUs in all.

    Raises:
        RequestError: the cluster cannot hold the workers, or they would leave no core for data.
    """
    gpu = _use_gpu(job, gpus)
    return Share(_cpus_per_worker(job, gpu, cores, gpus), gpu)


def scaling_config(job: TrainJob) -> Any:
    """Ray Train's ScalingConfig of a job, on the cluster that is joined.

    Raises:
        RequestError: as `share`.
    """
    from ray.train import ScalingConfig

    each = share(job, *_cluster())
    workers = job.scale.workers
    options: dict[str, Any] = {"num_workers": workers}
    if isinstance(workers, Elastic):
        options = {
            "num_workers": (workers.min, workers.max),
            "elastic_resize_monitor_interval_s": workers.resize_s,
        }
    return ScalingConfig(
        **options,
        use_gpu=each.gpu,
        resources_per_worker={"CPU": each.cpus, **({"GPU": 1} if each.gpu else {})},
    )


def reserved_cpus(job: TrainJob) -> float:
    """Cores that all workers reserve together, at most.

    Raises:
        RequestError: as `share`.
    """
    return job.scale.most_workers * share(job, *_cluster()).cpus


def set_patience(job: TrainJob) -> None:
    """How long Ray Train waits; it takes this from the environment only, before a trainer starts.

    For a frozen worker, and at its own meetings of all ranks: by default ten minutes, and for
    ever. For room for a group: a slow cluster pulls images first, but an elastic group that does
    not find the room it was promised is better sized anew.
    """
    timeout = str(max(1, round(job.scale.timeout)))
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", timeout)
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", timeout)
    workers = job.scale.workers
    start = max(LEAST_START_S, workers.resize_s) if isinstance(workers, Elastic) else START_S
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(round(start)))


def _cluster() -> tuple[float, int]:
    """Cores and GPUs of the cluster that is joined."""
    import ray

    there = ray.cluster_resources()
    return float(there.get("CPU", 0)), int(there.get("GPU", 0))


def _use_gpu(job: TrainJob, gpus: int) -> bool:
    least = job.scale.least_workers
    if job.scale.device == "cpu" or (job.scale.device == "auto" and gpus == 0):
        return False
    # An elastic job may wait for nodes; a fixed one that does not fit would wait for ever.
    if gpus < least and not isinstance(job.scale.workers, Elastic):
        raise RequestError(
            f"{least} workers need {least} GPUs, the cluster has {gpus}",
            where="scale.workers",
            mend=f"set scale.workers={max(gpus, 1)}, or scale.device=cpu",
        )
    return True


def _cpus_per_worker(job: TrainJob, use_gpu: bool, cores: float, gpus: int) -> float:
    """Cores that a worker reserves; one core of the cluster is left to read data."""
    workers = job.scale.workers
    if isinstance(workers, Elastic):
        # The cluster of today says nothing of tomorrow's: each takes the same wherever it is.
        each = max(1.0, (cores - 1) // gpus) if use_gpu and gpus else ELASTIC_CPUS
        return float(job.scale.cpus or each)
    each = job.scale.cpus or max(0.1, round((cores - 1) / workers - 0.005, 2))
    if each * workers > cores - 0.5:
        raise RequestError(
            f"{workers} workers x {each} CPUs leave less than half a core of {cores:g} for data",
            where="scale.cpus",
            mend="lower scale.cpus or scale.workers",
        )
    return float(each)
