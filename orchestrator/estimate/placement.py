"""Where a job's workers would stand on the cluster of a profile, and what they would have there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.cluster_profile import NodeGroup, Profile
from orchestrator.estimate.hardware import Gpu, known_gpu
from orchestrator.estimate.worker_capacity import ELASTIC_CPUS, Node, fair_share, slots, slots_of
from orchestrator.job import Scale
from orchestrator.job.config.scale import Elastic


@dataclass(frozen=True)
class Hosts:
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


class Place:
    """The cluster of a profile, as the workers of a job see it.

    `profile` counts its groups' nodes at most; GPU workers stand on nodes with GPUs only.
    """

    def __init__(self, profile: Profile, scale: Scale, gpu: Gpu | None = None) -> None:
        self.profile, self.scale, self._named = profile, scale, gpu
        self.gpus = sum(group.most * group.gpus for group in profile.work.values())
        self.on_gpus = scale.device == "gpu" or (scale.device == "auto" and self.gpus > 0)

    @cached_property
    def nodes(self) -> list[Node]:
        """All nodes, at most."""
        return [_node(group) for group in self.profile.work.values() for _ in range(group.most)]

    @cached_property
    def cpus(self) -> float:
        """Cores that each worker reserves (`training.placement` says the same of a cluster that
        runs)."""
        if self.scale.cpus:
            return self.scale.cpus
        if isinstance(self.scale.workers, Elastic):
            if not self.on_gpus:
                return ELASTIC_CPUS
            return max(1.0, fair_share(self.nodes, max(self.gpus, 1), True) // 1)
        return fair_share(self.nodes, self.scale.workers, self.on_gpus)

    @cached_property
    def slots(self) -> int:
        """Workers that find room when every group has its most nodes."""
        return slots(self.nodes, self.cpus, self.on_gpus)

    @cached_property
    def slots_at_once(self) -> int:
        """Workers that find room on the nodes that are always there."""
        there = [_node(g) for g in self.profile.work.values() for _ in range(g.min)]
        return slots(there, self.cpus, self.on_gpus)

    @cached_property
    def gpu(self) -> Gpu | None:
        """What the slowest and smallest of the GPUs can do; None without GPUs, or where one of
        the groups has GPUs of which nothing is known."""
        if self._named and self.on_gpus:
            return self._named
        groups = [group for group in self._hosting().values() if self.on_gpus]
        kinds = [known_gpu(group.gpu or "") for group in groups]
        known = [kind for kind in kinds if kind is not None]
        if not known or len(known) < len(kinds):
            return None
        peaks = [kind.peak for kind in known if kind.peak is not None]
        slowest = min(known, key=lambda kind: (kind.peak or 0.0, kind.memory))
        peak = min(peaks) if len(peaks) == len(known) else None
        return Gpu(slowest.name, peak, min(kind.memory for kind in known))

    def hosts(self, world: int) -> Hosts:
        """The nodes of `world` workers: those that are always there first, then the others, group
        after group as the profile has them."""
        groups = self._hosting()
        used, left = dict.fromkeys(groups, 0), world
        for most in (False, True):
            for name, group in groups.items():
                each = slots_of(_node(group), self.cpus, self.on_gpus)
                there = (group.most if most else group.min) - used[name]
                taken = min(there, -(-left // each))
                used[name] += taken
                left -= min(left, taken * each)
        standing = {name: groups[name] for name, count in used.items() if count}
        shares = [
            group.memory / min(world, slots_of(_node(group), self.cpus, self.on_gpus))
            for group in standing.values()
        ]
        ram = min(shares, default=None)
        memory = ram if not self.on_gpus else self.gpu.memory if self.gpu else None
        cores = sum(group.cpus * used[name] for name, group in standing.items())
        return Hosts({name: used[name] for name in standing}, cores, memory, ram)

    def rate(self, hosts: Hosts) -> float | None:
        """What an hour costs: of the nodes that are used, and of those that are always there.
        None where a price is missing."""
        if self.unpriced(hosts):
            return None
        return sum(
            count * (self.profile.nodes[name].price or 0.0)
            for name, count in self._paid(hosts).items()
        )

    def unpriced(self, hosts: Hosts) -> list[str]:
        """Groups that are paid and have no price."""
        return [name for name in self._paid(hosts) if self.profile.nodes[name].price is None]

    def _paid(self, hosts: Hosts) -> dict[str, int]:
        paid = {
            name: max(group.min, hosts.used.get(name, 0))
            for name, group in self.profile.nodes.items()
        }
        return {name: count for name, count in paid.items() if count}

    def _hosting(self) -> dict[str, NodeGroup]:
        """Groups whose nodes can hold a worker."""
        return {
            name: group
            for name, group in self.profile.work.items()
            if group.most and slots_of(_node(group), self.cpus, self.on_gpus)
        }


def _node(group: NodeGroup) -> Node:
    return Node(group.cpus, group.gpus)
