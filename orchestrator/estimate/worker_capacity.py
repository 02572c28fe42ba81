"""How many workers the machines of a cluster hold, and how many cores each may have.

A worker stands on one machine whole: a cluster's cores and GPUs added up say nothing of whether
eight workers find room beside the eight GPUs of a node.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

CPUS_FOR_DATA = 0.5
"""Cores of the cluster that trainings must leave free: who reads the data needs some."""

CPUS_PER_ELASTIC_WORKER = 1.0
"""Cores of an elastic worker without a GPU, where the job does not say."""

_MIN_CPUS_PER_WORKER = 0.1


@dataclass(frozen=True)
class NodeResources:
    """What a machine of the cluster has."""

    cpus: float
    gpus: float = 0.0


def workers_on_node(node: NodeResources, cpus: float, on_gpus: bool) -> int:
    """Workers of `cpus` cores, each with a GPU or none, that a machine holds."""
    by_cores = math.floor(node.cpus / cpus + 1e-9)
    return min(by_cores, int(node.gpus)) if on_gpus else by_cores


def max_workers(nodes: Sequence[NodeResources], cpus: float, on_gpus: bool) -> int:
    """Workers of `cpus` cores that all machines hold, with enough left for data."""
    cores = sum(node.cpus for node in nodes)
    held = sum(workers_on_node(node, cpus, on_gpus) for node in nodes)
    return max(0, min(held, math.floor((cores - CPUS_FOR_DATA) / cpus + 1e-9)))


def cpus_per_worker(nodes: Sequence[NodeResources], workers: int, on_gpus: bool) -> float:
    """Cores that each of `workers` may reserve, one of the cluster's left for data.

    No more than lets all of them find room, on as few nodes as their GPUs need: a head node's
    cores are no use to the eight workers of a GPU node, nor are those of a hundred other nodes.
    0.1 at least, whether or not they find room then (`max_workers`).
    """
    cores = sum(node.cpus for node in nodes)
    most = max(_MIN_CPUS_PER_WORKER, round((cores - 1) / workers - 0.005, 2))
    standing = _fewest_nodes(nodes, workers) if on_gpus else nodes

    def too_much(share: float) -> bool:
        held = sum(workers_on_node(node, share, on_gpus) for node in standing)
        return held < workers or share * workers > cores - CPUS_FOR_DATA

    if not too_much(most):
        return most
    hundredths = range(round(100 * _MIN_CPUS_PER_WORKER), round(100 * most))
    first = bisect_left(hundredths, True, key=lambda share: too_much(share / 100))
    return hundredths[max(0, first - 1)] / 100 if hundredths else _MIN_CPUS_PER_WORKER


def _fewest_nodes(nodes: Sequence[NodeResources], gpus: int) -> list[NodeResources]:
    """The largest nodes, until they have so many GPUs."""
    largest = sorted(nodes, key=lambda node: (node.gpus, node.cpus), reverse=True)
    before = [0.0, *accumulate(node.gpus for node in largest)]
    return [node for node, had in zip(largest, before, strict=False) if had < gpus]
