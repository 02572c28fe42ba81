"""How many trials train at once: as many as the cluster holds whole, with a core left for data.

A trial's driver reserves nothing and its workers reserve what is counted here, all or none of
them: so no trial can wait for cores that another one holds while it waits itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import RequestError
from orchestrator.job import Scale

FOR_DATA = 0.5
"""Cores of the cluster that trainings must leave free (`training.placement` refuses less)."""


@dataclass(frozen=True)
class Node:
    """What a machine of the cluster has."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Room:
    """What a cluster holds of a sweep."""

    trials: int
    """Trials at once, at least 1."""

    cpus: float
    """Cores that each worker reserves."""


def nodes_of_cluster() -> list[Node]:
    """The machines of the Ray cluster that is joined."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(float(one.get("CPU", 0)), float(one.get("GPU", 0))) for one in found]


def admit(scale: Scale, nodes: Sequence[Node]) -> Room:
    """Room for trials of this scale.

    Raises:
        RequestError: not even one trial fits.
    """
    workers = scale.most_workers
    cores, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    on_gpus = scale.device == "gpu" or (scale.device == "auto" and gpus > 0)
    cpus = scale.cpus or _share(workers, cores, gpus if on_gpus else 0)
    slots = sum(_slots(node, cpus, on_gpus) for node in nodes)
    slots = min(slots, math.floor((cores - FOR_DATA) / cpus + 1e-9))
    if slots < workers:
        what = "a GPU and " if on_gpus else ""
        raise RequestError(
            f"a trial of {workers} workers, each with {what}{cpus:g} cores, does not fit: the"
            f" cluster holds {max(slots, 0)} such workers ({len(nodes)} nodes, {cores:g} cores,"
            f" {gpus:g} GPUs, half a core left for data)",
            where="train.scale.workers",
            mend="lower train.scale.workers or train.scale.cpus, or join a larger cluster",
        )
    return Room(slots // workers, cpus)


def _share(workers: int, cores: float, gpus: float) -> float:
    """Cores of a worker where the job does not say: one, or less so that a trial fits; beside a
    GPU, the cluster's cores over its GPUs. One core is left for data."""
    if gpus:
        return max(0.1, round((cores - 1) / gpus - 0.005, 2))
    return 1.0 if cores - 1 >= workers else max(0.1, round((cores - 1) / workers - 0.005, 2))


def _slots(node: Node, cpus: float, on_gpus: bool) -> int:
    by_cores = math.floor(node.cpus / cpus + 1e-9)
    return min(by_cores, int(node.gpus)) if on_gpus else by_cores
