"""How many trials train at once: as many as the cluster holds whole, with a core left for data.

A trial's driver reserves nothing and its workers reserve what is counted here, all or none of
them: so no trial can wait for cores that another one holds while it waits itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import RequestError
from orchestrator.estimate.worker_capacity import NodeResources, cpus_per_worker, max_workers
from orchestrator.job import Scale


@dataclass(frozen=True)
class SweepCapacity:
    """What a cluster holds of a sweep."""

    max_concurrent_trials: int
    """Trials at once, at least 1."""

    cpus_per_worker: float
    """Cores that each worker reserves."""

    workers_per_trial: int
    """Of one trial."""

    on_gpus: bool
    """Whether each worker has a GPU."""


def sweep_capacity(scale: Scale, nodes: Sequence[NodeResources]) -> SweepCapacity:
    """Room for trials of this scale.

    Raises:
        RequestError: not even one trial fits.
    """
    workers = scale.max_workers
    cores, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    on_gpus = scale.device == "gpu" or (scale.device == "auto" and gpus > 0)
    cpus = scale.cpus or _share(workers, nodes, int(gpus) if on_gpus else 0)
    room = max_workers(nodes, cpus, on_gpus)
    if room < workers:
        what = "a GPU and " if on_gpus else ""
        raise RequestError(
            f"a trial of {workers} workers, each with {what}{cpus:g} cores, does not fit: the"
            f" cluster holds {room} such workers ({len(nodes)} nodes, {cores:g} cores,"
            f" {gpus:g} GPUs, half a core left for data)",
            where="train.scale.workers",
            hint="lower train.scale.workers or train.scale.cpus, or join a larger cluster",
        )
    return SweepCapacity(room // workers, cpus, workers, on_gpus)


def concurrent_trials(nodes: Sequence[NodeResources], capacity: SweepCapacity) -> int:
    """Trials at once on these nodes, with the cores that each worker has: 0 where none fits."""
    if not nodes:
        return 0
    return (
        max_workers(nodes, capacity.cpus_per_worker, capacity.on_gpus) // capacity.workers_per_trial
    )


def _share(workers: int, nodes: Sequence[NodeResources], gpus: int) -> float:
    """Cores of a worker where the job does not say: one, or less so that a trial fits; beside a
    GPU, the cluster's cores over its GPUs."""
    if gpus:
        return cpus_per_worker(nodes, gpus, on_gpus=True)
    spare = sum(node.cpus for node in nodes) - 1
    if spare >= workers and max_workers(nodes, 1.0, on_gpus=False) >= workers:
        return 1.0
    return cpus_per_worker(nodes, workers, on_gpus=False)
