"""Checks of the nodes: they respond, run the same software, and have enough of each limit."""

from __future__ import annotations

from collections import defaultdict

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts, NodeFacts
from orchestrator.clusters.doctor.words import format_bytes, join_names

MIN_OPEN_FILES_ONE_NODE, MIN_OPEN_FILES = 1024, 8192
"""Ray keeps a connection to each node and a file for each worker open."""

MAX_CLOCK_SKEW_S = 1.0
"""Clocks that differ by more make logs and metrics of several nodes unreadable; certificates and
signed requests to an object store fail at minutes."""


class NodesRespond:
    """Every node of the cluster runs a task."""

    name = "nodes"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail for each node that did not respond."""
        hint = (
            "look at its raylet's log; the same package of the code must be importable there"
            " (ray's runtime_env, one image, or PYTHONPATH)"
        )
        found = [
            CheckResult(self.name, "fail", f"{name} does not answer: {why}", hint)
            for name, why in facts.unresponsive.items()
        ]
        if found:
            return found
        cores = sum(node.cpus for node in facts.nodes)
        gpus = sum(node.gpus for node in facts.nodes)
        text = f"{len(facts.nodes)} answered: {cores:g} CPUs, {gpus} GPUs"
        return [CheckResult(self.name, "ok", text)]


class SameVersions:
    """All nodes run the same versions; ranks that differ fail late or compute other results."""

    name = "versions"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail for each package whose version differs between nodes."""
        parts = sorted({part for node in facts.nodes for part in node.versions})
        skews = [self._skew(part, facts.nodes) for part in parts]
        found = [finding for finding in skews if finding]
        if found or not facts.nodes:
            return found
        same = ", ".join(f"{part} {value}" for part, value in facts.nodes[0].versions.items())
        return [CheckResult(self.name, "ok", same)]

    def _skew(self, part: str, nodes: tuple[NodeFacts, ...]) -> CheckResult | None:
        # Only nodes with GPUs have a driver; their build of torch may differ from the others'.
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
        hint = (
            f"install {part} {usual} there, best by one image for all nodes"
            if part not in ("driver", "nccl")
            else f"bring these nodes to {part} {usual}, or leave them out"
        )
        text = f"{part} {usual} on most nodes, but {'; '.join(others)}"
        return CheckResult(self.name, "fail", text, hint)


class SharedMemory:
    """/dev/shm is large enough for Ray's object store, which shares it with NCCL and decoding."""

    name = "/dev/shm"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail if a node's /dev/shm is smaller than its object store."""
        small = [node for node in facts.nodes if node.shm < node.object_store]
        if small:
            worst = min(small, key=lambda node: node.shm)
            text = (
                f"{format_bytes(worst.shm)} on {join_names(node.name for node in small)}, less than"
                f" Ray's object store of {format_bytes(worst.object_store)}: it would lie on a disk"
            )
            hint = (
                "enlarge it: docker run --shm-size, in Kubernetes an emptyDir of medium Memory at"
                " /dev/shm; or start Ray with a smaller --object-store-memory"
            )
            return [CheckResult(self.name, "fail", text, hint)]
        least = min((node.shm for node in facts.nodes), default=0)
        return [
            CheckResult(self.name, "ok", f"at least {format_bytes(least)}, Ray's object store fits")
        ]


class OpenFileLimit:
    """A process may open enough files."""

    name = "open files"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail if a node's limit is too low for a cluster of this size."""
        need = MIN_OPEN_FILES if len(facts.nodes) > 1 else MIN_OPEN_FILES_ONE_NODE
        low = [node for node in facts.nodes if 0 <= node.open_file_limit < need]
        if low:
            few = min(node.open_file_limit for node in low)
            text = (
                f"at most {few:,} on {join_names(node.name for node in low)}; {need:,} are needed"
            )
            hint = "raise it where Ray is started: ulimit -n 65536 (LimitNOFILE= of a service)"
            return [CheckResult(self.name, "fail", text, hint)]
        limits = [node.open_file_limit for node in facts.nodes if node.open_file_limit >= 0]
        return [CheckResult(self.name, "ok", f"at least {min(limits):,}" if limits else "no limit")]


class ClockSkew:
    """All clocks agree with the driver's."""

    name = "clocks"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail if a clock is off by more than the limit and the error of the measurement."""
        wrong = [
            node
            for node in facts.nodes
            if abs(node.clock_s) > MAX_CLOCK_SKEW_S + node.clock_error_s
        ]
        if wrong:
            each = join_names(f"{node.name} by {node.clock_s:+.1f} s" for node in wrong)
            hint = "start a time service there: chrony or systemd-timesyncd"
            return [CheckResult(self.name, "fail", f"not the driver's time: {each}", hint)]
        most = max((abs(node.clock_s) for node in facts.nodes), default=0.0)
        return [CheckResult(self.name, "ok", f"within {1000 * most:.0f} ms")]
