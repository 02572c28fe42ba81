"""GPUs, and what nodes do in a second beside each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts, NodeFacts
from orchestrator.clusters.doctor.words import join_names, per_second, size

SLOW_FRACTION = 0.75
"""A share of its like's median below which a node is named."""

MAX_DRIVER_MEMORY_FRACTION = 0.05
"""Share of a GPU's memory that a driver takes for itself, at most."""


class GpuHealth:
    """Ray, torch and the driver agree on the GPUs, and each computes."""

    name = "GPUs"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """A line for each fault; that none are there is well unless the job wants them."""
        found = [finding for node in facts.nodes for finding in self._check_node(node)]
        if found:
            return found
        count = sum(node.gpus for node in facts.nodes)
        job = facts.job.training if facts.job else None
        if not count and job is not None and any(group.gpus for group in job.scale.nodes):
            return [CheckResult(self.name, "ok", "none yet: nodes with GPUs start when a job asks")]
        if not count and job is not None and job.scale.device == "gpu":
            mend = "add nodes with GPUs, or set scale.device=cpu"
            return [CheckResult(self.name, "fail", "none, and the job asks for them", mend)]
        if not count:
            return [CheckResult(self.name, "ok", "none, and none asked for: the cores compute")]
        kinds = sorted({gpu.name for node in facts.nodes for gpu in node.gpu_list})
        return [CheckResult(self.name, "ok", f"{count} seen and healthy: {', '.join(kinds)}")]

    def _check_node(self, node: NodeFacts) -> Iterator[CheckResult]:
        if len(node.gpu_list) < node.gpus:
            yield CheckResult(
                self.name,
                "fail",
                f"{node.name}: Ray deals out {node.gpus}, the driver shows {len(node.gpu_list)}",
                "see nvidia-smi there; a GPU that fell off the bus comes back with a reboot",
            )
        if len(node.gpu_list) > node.gpus:
            yield CheckResult(
                self.name,
                "warn",
                f"{node.name}: the driver shows {len(node.gpu_list)}, Ray deals out {node.gpus}",
                f"start Ray there with --num-gpus={len(node.gpu_list)} to use them all",
            )
        for gpu in node.gpu_list:
            where = f"{node.name}, GPU {gpu.index}"
            if gpu.error:
                mend = "drain the node and reset the GPU; a torch built for CPUs sees none at all"
                yield CheckResult(self.name, "fail", f"{where}: {gpu.error}", mend)
            if gpu.uncorrected_ecc_errors:
                count = gpu.uncorrected_ecc_errors
                text = f"{where}: {count} memory errors that could not be corrected"
                yield CheckResult(self.name, "fail", text, "drain the node and reset or replace it")
            if gpu.used > MAX_DRIVER_MEMORY_FRACTION * gpu.memory:
                text = f"{where}: other processes hold {size(gpu.used)} of {size(gpu.memory)}"
                yield CheckResult(
                    self.name, "warn", text, "end them, or wait: nvidia-smi shows them"
                )


class MatmulSpeed:
    """What each node computes, beside others of its kind."""

    name = "matrix rate"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """The slow ones by name: one holds all others up."""
        groups: dict[str, dict[str, float]] = defaultdict(dict)
        for node in facts.nodes:
            for gpu in node.gpu_list:
                if gpu.bf16_flops_per_s is not None:
                    groups[gpu.name][f"{node.name} GPU {gpu.index}"] = gpu.bf16_flops_per_s
            if node.fp32_flops_per_s is not None and node.cpus:
                groups[f"{node.cores} cores"][node.name] = node.fp32_flops_per_s
        found = []
        for kind, rates in groups.items():
            text = describe_slow(rates, lambda value: per_second(value, "FLOP"))
            if text:
                mend = "see what else runs there, and its clock and cooling; or leave the node out"
                found.append(CheckResult(self.name, "warn", f"{kind}: {text}", mend))
        if found:
            return found
        each = "; ".join(
            f"{kind} {per_second(upper_median(rates), 'FLOP')}"
            for kind, rates in sorted(groups.items())
        )
        return [CheckResult(self.name, "ok", each or "nothing to measure")]


class AllReduceSpeed:
    """What nodes add up together, and the one that the others wait for."""

    name = "all-reduce"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Its rate over all nodes; nodes that are slow with both neighbours."""
        network = facts.network
        if network is None:
            return [CheckResult(self.name, "ok", "one node computes: nothing goes between nodes")]
        if network.error:
            mend = (
                "name the network between the nodes by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
                " (a profile's env; `ip addr` lists them), and open its ports"
            )
            text = f"the nodes do not meet over {network.backend}: {network.error}"
            return [CheckResult(self.name, "fail", text, mend)]
        slow = describe_slow(network.per_node, lambda value: per_second(value, "B"))
        if slow:
            mend = "look at its cable, its switch port and what else uses its network"
            return [CheckResult(self.name, "warn", f"{network.backend}: {slow}", mend)]
        whole = per_second(network.over_all_nodes or 0.0, "B")
        text = f"{whole} a node over {len(network.per_node)} nodes by {network.backend}"
        return [CheckResult(self.name, "ok", text)]


def describe_slow(rates: dict[str, float], show: Callable[[float], str]) -> str:
    """Those far below the median, in words; empty where there are none."""
    usual = upper_median(rates)
    slow = [
        f"{name} {show(value)}" for name, value in rates.items() if value < SLOW_FRACTION * usual
    ]
    return f"{join_names(slow)}, the median is {show(usual)}" if slow else ""


def upper_median(rates: dict[str, float]) -> float:
    """The upper one of an even number: of two, the slower is the outlier."""
    return sorted(rates.values())[len(rates) // 2]
