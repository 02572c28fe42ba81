"""Checks of GPUs, matrix products and all-reduce: slow or broken hardware by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts, NodeFacts
from orchestrator.clusters.doctor.words import format_bytes, join_names, per_second

SLOW_FRACTION = 0.75
"""Below this fraction of the median of its kind, a node is slow."""

MAX_DRIVER_MEMORY_FRACTION = 0.05
"""Fraction of a GPU's memory that the driver itself may use."""


class GpuHealth:
    """Ray, torch and the driver agree on the GPUs, and each GPU computes correctly."""

    name = "GPUs"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """One result per fault; no GPUs at all is a fault only if the job requires them."""
        found = [finding for node in facts.nodes for finding in self._check_node(node)]
        if found:
            return found
        count = sum(node.gpus for node in facts.nodes)
        job = facts.job.training if facts.job else None
        if not count and job is not None and any(group.gpus for group in job.scale.nodes):
            return [CheckResult(self.name, "ok", "none yet: nodes with GPUs start when a job asks")]
        if not count and job is not None and job.scale.device == "gpu":
            hint = "add nodes with GPUs, or set scale.device=cpu"
            return [CheckResult(self.name, "fail", "none, and the job asks for them", hint)]
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
                hint = "drain the node and reset the GPU; a torch built for CPUs sees none at all"
                yield CheckResult(self.name, "fail", f"{where}: {gpu.error}", hint)
            if gpu.uncorrected_ecc_errors:
                count = gpu.uncorrected_ecc_errors
                text = f"{where}: {count} memory errors that could not be corrected"
                yield CheckResult(self.name, "fail", text, "drain the node and reset or replace it")
            if gpu.used > MAX_DRIVER_MEMORY_FRACTION * gpu.memory:
                used, memory = format_bytes(gpu.used), format_bytes(gpu.memory)
                text = f"{where}: other processes hold {used} of {memory}"
                yield CheckResult(
                    self.name, "warn", text, "end them, or wait: nvidia-smi shows them"
                )


class MatmulSpeed:
    """No node is much slower at matrix products than others of its kind."""

    name = "matrix rate"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Warn of slow nodes by name: all ranks wait for the slowest."""
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
                hint = "see what else runs there, and its clock and cooling; or leave the node out"
                found.append(CheckResult(self.name, "warn", f"{kind}: {text}", hint))
        if found:
            return found
        each = "; ".join(
            f"{kind} {per_second(upper_median(rates), 'FLOP')}"
            for kind, rates in sorted(groups.items())
        )
        return [CheckResult(self.name, "ok", each or "nothing to measure")]


class AllReduceSpeed:
    """The nodes can all-reduce with each other, and none is much slower at it."""

    name = "all-reduce"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Report the rate over all nodes; warn of nodes that are slow with both neighbours."""
        network = facts.network
        if network is None:
            return [CheckResult(self.name, "ok", "one node computes: no traffic between nodes")]
        if network.error:
            hint = (
                "name the network between the nodes by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
                " (a profile's env; `ip addr` lists them), and open its ports"
            )
            text = f"the nodes do not meet over {network.backend}: {network.error}"
            return [CheckResult(self.name, "fail", text, hint)]
        slow = describe_slow(network.per_node, lambda value: per_second(value, "B"))
        if slow:
            hint = "look at its cable, its switch port and what else uses its network"
            return [CheckResult(self.name, "warn", f"{network.backend}: {slow}", hint)]
        whole = per_second(network.over_all_nodes or 0.0, "B")
        text = f"{whole} a node over {len(network.per_node)} nodes by {network.backend}"
        return [CheckResult(self.name, "ok", text)]


def describe_slow(rates: dict[str, float], show: Callable[[float], str]) -> str:
    """Describe the rates far below the median; empty if there are none."""
    usual = upper_median(rates)
    slow = [
        f"{name} {show(value)}" for name, value in rates.items() if value < SLOW_FRACTION * usual
    ]
    return f"{join_names(slow)}, the median is {show(usual)}" if slow else ""


def upper_median(rates: dict[str, float]) -> float:
    """The median, the larger of the middle two: of two nodes the slower is the outlier."""
    return sorted(rates.values())[len(rates) // 2]
