"""What runs on the nodes."""

from __future__ import annotations

from collections import defaultdict

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts, NodeFacts
from orchestrator.clusters.doctor.words import join_names


class SameVersions:
    """All nodes run the same: ranks that do not agree fail late, or compute something else."""

    name = "versions"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """A line for each part that is not the same everywhere."""
        parts = sorted({part for node in facts.nodes for part in node.versions})
        skews = [self._skew(part, facts.nodes) for part in parts]
        found = [finding for finding in skews if finding]
        if found or not facts.nodes:
            return found
        same = ", ".join(f"{part} {value}" for part, value in facts.nodes[0].versions.items())
        return [CheckResult(self.name, "ok", same)]

    def _skew(self, part: str, nodes: tuple[NodeFacts, ...]) -> CheckResult | None:
        # Only nodes with GPUs have a driver, and may have another build of torch than the others.
        if part in ("driver", "nccl"):
            nodes = tuple(node for node in nodes if node.gpus)
        by_value: dict[str, list[str]] = defaultdict(list)
        for node in nodes:
            value = node.versions.get(part, "none")
            by_value[value.partition("+")[0] if part == "torch" else value].append(node.name)
        if len(by_value) < 2:
            return None
        usual = max(by_value, key=lambda value: len(by_value[value]))
        others = [f"{v} on {join_names(names)}" for v, names in by_value.items() if v != usual]
        mend = (
            f"install {part} {usual} there, best by one image for all nodes"
            if part not in ("driver", "nccl")
            else f"bring these nodes to {part} {usual}, or leave them out"
        )
        text = f"{part} {usual} on most nodes, but {'; '.join(others)}"
        return CheckResult(self.name, "fail", text, mend)
