"""Where a job's workers would stand on the cluster of a profile, and what they would have there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.cluster_profile import NodeGroup, Profile
from orchestrator.estimate.hardware import Gpu, gpu_by_name
from orchestrator.estimate.worker_capacity import (
    CPUS_PER_ELASTIC_WORKER,
    NodeResources,
    cpus_per_worker,
    max_workers,
    workers_on_node,
)
from orchestrator.job import Scale
from orchestrator.job.config.scale import ElasticWorkers


@dataclass(frozen=True)
class NodeAllocation:
    """The nodes that some workers stand on."""

    used: dict[str, int]
    """Nodes of each group, by its name."""

    cores: int
    """Of them all."""

    memory: float | None
    """Bytes that the memory of one worker may take, on the node where that is least: of its GPU,
    or its share of the node's RAM. None: the GPU is not known."""

    ram: float | None
    """Bytes of its node's RAM that are one worker's share, where that is least. None: no node
    can hold a worker."""


class WorkerPlacement:
    """The cluster of a profile, as the workers of a job see it.

    `profile` counts its groups' nodes at most; GPU workers stand on nodes with GPUs only.
    """

    def __init__(self, profile: Profile, scale: Scale, gpu: Gpu | None = None) -> None:
        self.profile, self.scale, self._gpu_override = profile, scale, gpu
        self.gpus = sum(group.max_nodes * group.gpus for group in profile.worker_groups.values())
        self.on_gpus = scale.device == "gpu" or (scale.device == "auto" and self.gpus > 0)

    @cached_property
    def nodes(self) -> list[NodeResources]:
        """All nodes, at most."""
        return [
            _node(group)
            for group in self.profile.worker_groups.values()
            for _ in range(group.max_nodes)
        ]

    @cached_property
    def cpus(self) -> float:
        """Cores that each worker reserves (`training.placement` says the same of a cluster that
        runs)."""
        if self.scale.cpus:
            return self.scale.cpus
        if isinstance(self.scale.workers, ElasticWorkers):
            if not self.on_gpus:
                return CPUS_PER_ELASTIC_WORKER
            return max(1.0, cpus_per_worker(self.nodes, max(self.gpus, 1), True) // 1)
        return cpus_per_worker(self.nodes, self.scale.workers, self.on_gpus)

    @cached_property
    def max_workers(self) -> int:
        """Workers that find room when every group has its most nodes."""
        return max_workers(self.nodes, self.cpus, self.on_gpus)

    @cached_property
    def always_available_workers(self) -> int:
        """Workers that find room on the nodes that are always there."""
        there = [_node(g) for g in self.profile.worker_groups.values() for _ in range(g.min)]
        return max_workers(there, self.cpus, self.on_gpus)

    @cached_property
    def gpu(self) -> Gpu | None:
        """What the slowest and smallest of the GPUs can do; None without GPUs, or where one of
        the groups has GPUs of which nothing is known."""
        if self._gpu_override and self.on_gpus:
            return self._gpu_override
        groups = [group for group in self._usable_groups().values() if self.on_gpus]
        kinds = [gpu_by_name(group.gpu or "") for group in groups]
        known = [kind for kind in kinds if kind is not None]
        if not known or len(known) < len(kinds):
            return None
        peaks = [kind.peak for kind in known if kind.peak is not None]
        slowest = min(known, key=lambda kind: (kind.peak or 0.0, kind.memory))
        peak = min(peaks) if len(peaks) == len(known) else None
        return Gpu(slowest.name, peak, min(kind.memory for kind in known))

    def allocate(self, world_size: int) -> NodeAllocation:
        """The nodes of `world_size` workers: those that are always there first, then the others,
        group after group as the profile has them."""
        groups = self._usable_groups()
        used, left = dict.fromkeys(groups, 0), world_size
        for most in (False, True):
            for name, group in groups.items():
                each = workers_on_node(_node(group), self.cpus, self.on_gpus)
                there = (group.max_nodes if most else group.min) - used[name]
                taken = min(there, -(-left // each))
                used[name] += taken
                left -= min(left, taken * each)
        standing = {name: groups[name] for name, count in used.items() if count}
        shares = [
            group.memory / min(world_size, workers_on_node(_node(group), self.cpus, self.on_gpus))
            for group in standing.values()
        ]
        ram = min(shares, default=None)
        memory = ram if not self.on_gpus else self.gpu.memory if self.gpu else None
        cores = sum(group.cpus * used[name] for name, group in standing.items())
        return NodeAllocation({name: used[name] for name in standing}, cores, memory, ram)

    def hourly_cost(self, hosts: NodeAllocation) -> float | None:
        """What an hour costs: of the nodes that are used, and of those that are always there.
        None where a price is missing."""
        if self.unpriced(hosts):
            return None
        return sum(
            count * (self.profile.nodes[name].price or 0.0)
            for name, count in self._paid(hosts).items()
        )

    def unpriced(self, hosts: NodeAllocation) -> list[str]:
        """Groups that are paid and have no price."""
        return [name for name in self._paid(hosts) if self.profile.nodes[name].price is None]

    def _paid(self, hosts: NodeAllocation) -> dict[str, int]:
        paid = {
            name: max(group.min, hosts.used.get(name, 0))
            for name, group in self.profile.nodes.items()
        }
        return {name: count for name, count in paid.items() if count}

    def _usable_groups(self) -> dict[str, NodeGroup]:
        """Groups whose nodes can hold a worker."""
        return {
            name: group
            for name, group in self.profile.worker_groups.items()
            if group.max_nodes and workers_on_node(_node(group), self.cpus, self.on_gpus)
        }


def _node(group: NodeGroup) -> NodeResources:
    return NodeResources(group.cpus, group.gpus)
