"""GPUs, and what nodes do in a second beside each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from orchestrator.clusters.doctor.facts import Facts, Finding, Node
from orchestrator.clusters.doctor.job_datasets import training_of
from orchestrator.clusters.doctor.words import rate, size, these

SLOW = 0.75
"""A share of its like's median below which a node is named."""

HELD = 0.05
"""Share of a GPU's memory that a driver takes for itself, at most."""


class Gpus:
    """Ray, torch and the driver agree on the GPUs, and each computes."""

    name = "GPUs"

    def look(self, facts: Facts) -> list[Finding]:
        """A line for each fault; that none are there is well unless the job wants them."""
        found = [finding for node in facts.nodes for finding in self._of(node)]
        if found:
            return found
        count = sum(node.gpus for node in facts.nodes)
        job = training_of(facts.job)
        if not count and job is not None and any(group.gpus for group in job.scale.nodes):
            return [Finding(self.name, "ok", "none yet: nodes with GPUs start when a job asks")]
        if not count and job is not None and job.scale.device == "gpu":
            mend = "add nodes with GPUs, or set scale.device=cpu"
            return [Finding(self.name, "fail", "none, and the job asks for them", mend)]
        if not count:
            return [Finding(self.name, "ok", "none, and none asked for: the cores compute")]
        kinds = sorted({gpu.name for node in facts.nodes for gpu in node.gpu_list})
        return [Finding(self.name, "ok", f"{count} seen and healthy: {', '.join(kinds)}")]

    def _of(self, node: Node) -> Iterator[Finding]:
        if len(node.gpu_list) < node.gpus:
            yield Finding(
                self.name,
                "fail",
                f"{node.name}: Ray deals out {node.gpus}, the driver shows {len(node.gpu_list)}",
                "see nvidia-smi there; a GPU that fell off the bus comes back with a reboot",
            )
        if len(node.gpu_list) > node.gpus:
            yield Finding(
                self.name,
                "warn",
                f"{node.name}: the driver shows {len(node.gpu_list)}, Ray deals out {node.gpus}",
                f"start Ray there with --num-gpus={len(node.gpu_list)} to use them all",
            )
        for gpu in node.gpu_list:
            where = f"{node.name}, GPU {gpu.index}"
            if gpu.error:
                mend = "drain the node and reset the GPU; a torch built for CPUs sees none at all"
                yield Finding(self.name, "fail", f"{where}: {gpu.error}", mend)
            if gpu.uncorrected:
                text = f"{where}: {gpu.uncorrected} memory errors that could not be corrected"
                yield Finding(self.name, "fail", text, "drain the node and reset or replace it")
            if gpu.used > HELD * gpu.memory:
                text = f"{where}: other processes hold {size(gpu.used)} of {size(gpu.memory)}"
                yield Finding(self.name, "warn", text, "end them, or wait: nvidia-smi shows them")


class MatrixRate:
    """What each node computes, beside others of its kind."""

    name = "matrix rate"

    def look(self, facts: Facts) -> list[Finding]:
        """The slow ones by name: one holds all others up."""
        groups: dict[str, dict[str, float]] = defaultdict(dict)
        for node in facts.nodes:
            for gpu in node.gpu_list:
                if gpu.flops is not None:
                    groups[gpu.name][f"{node.name} GPU {gpu.index}"] = gpu.flops
            if node.flops is not None and node.cpus:
                groups[f"{node.cores} cores"][node.name] = node.flops
        found = []
        for kind, rates in groups.items():
            text = slow_ones(rates, lambda value: rate(value, "FLOP"))
            if text:
                mend = "see what else runs there, and its clock and cooling; or leave the node out"
                found.append(Finding(self.name, "warn", f"{kind}: {text}", mend))
        if found:
            return found
        each = "; ".join(
            f"{kind} {rate(median(rates), 'FLOP')}" for kind, rates in sorted(groups.items())
        )
        return [Finding(self.name, "ok", each or "nothing to measure")]


class AllReduce:
    """What nodes add up together, and the one that the others wait for."""

    name = "all-reduce"

    def look(self, facts: Facts) -> list[Finding]:
        """Its rate over all nodes; nodes that are slow with both neighbours."""
        network = facts.network
        if network is None:
            return [Finding(self.name, "ok", "one node computes: nothing goes between nodes")]
        if network.error:
            mend = (
                "name the network between the nodes by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
                " (a profile's env; `ip addr` lists them), and open its ports"
            )
            text = f"the nodes do not meet over {network.backend}: {network.error}"
            return [Finding(self.name, "fail", text, mend)]
        slow = slow_ones(network.nodes, lambda value: rate(value, "B"))
        if slow:
            mend = "look at its cable, its switch port and what else uses its network"
            return [Finding(self.name, "warn", f"{network.backend}: {slow}", mend)]
        whole = rate(network.whole or 0.0, "B")
        text = f"{whole} a node over {len(network.nodes)} nodes by {network.backend}"
        return [Finding(self.name, "ok", text)]


def slow_ones(rates: dict[str, float], show: Callable[[float], str]) -> str:
    """Those far below the median, in words; empty where there are none."""
    usual = median(rates)
    slow = [f"{name} {show(value)}" for name, value in rates.items() if value < SLOW * usual]
    return f"{these(slow)}, the median is {show(usual)}" if slow else ""


def median(rates: dict[str, float]) -> float:
    """The upper one of an even number: of two, the slower is the outlier."""
    return sorted(rates.values())[len(rates) // 2]
