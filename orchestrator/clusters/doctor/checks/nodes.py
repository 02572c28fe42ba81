"""What a node must offer beside GPUs: an answer, shared memory, open files, the right time."""

from __future__ import annotations

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts
from orchestrator.clusters.doctor.words import join_names, size

MIN_OPEN_FILES_ONE_NODE, MIN_OPEN_FILES = 1024, 8192
"""Ray keeps a connection to every node and a file for every worker."""

MAX_CLOCK_SKEW_S = 1.0
"""Clocks that differ by more make logs and metrics of several nodes unreadable; certificates and
signed requests to an object store fail at minutes."""


class NodesRespond:
    """Every node of the cluster takes a task."""

    name = "nodes"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """A line for each node that did not answer."""
        mend = (
            "look at its raylet's log; the same package of the code must be importable there"
            " (ray's runtime_env, one image, or PYTHONPATH)"
        )
        found = [
            CheckResult(self.name, "fail", f"{name} does not answer: {why}", mend)
            for name, why in facts.unresponsive.items()
        ]
        if found:
            return found
        cores = sum(node.cpus for node in facts.nodes)
        gpus = sum(node.gpus for node in facts.nodes)
        text = f"{len(facts.nodes)} answered: {cores:g} CPUs, {gpus} GPUs"
        return [CheckResult(self.name, "ok", text)]


class SharedMemory:
    """/dev/shm holds Ray's object store, and what NCCL and decoding share."""

    name = "/dev/shm"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """The nodes whose /dev/shm is smaller than their object store."""
        small = [node for node in facts.nodes if node.shm < node.object_store]
        if small:
            worst = min(small, key=lambda node: node.shm)
            text = (
                f"{size(worst.shm)} on {join_names(node.name for node in small)}, less than Ray's"
                f" object store of {size(worst.object_store)}: it would lie on a disk"
            )
            mend = (
                "enlarge it: docker run --shm-size, in Kubernetes an emptyDir of medium Memory at"
                " /dev/shm; or start Ray with a smaller --object-store-memory"
            )
            return [CheckResult(self.name, "fail", text, mend)]
        least = min((node.shm for node in facts.nodes), default=0)
        return [CheckResult(self.name, "ok", f"at least {size(least)}, Ray's object store fits")]


class OpenFileLimit:
    """How many files a process may have open."""

    name = "open files"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """The nodes where it is too few for a cluster of this size."""
        need = MIN_OPEN_FILES if len(facts.nodes) > 1 else MIN_OPEN_FILES_ONE_NODE
        low = [node for node in facts.nodes if 0 <= node.open_file_limit < need]
        if low:
            few = min(node.open_file_limit for node in low)
            text = (
                f"at most {few:,} on {join_names(node.name for node in low)}; {need:,} are needed"
            )
            mend = "raise it where Ray is started: ulimit -n 65536 (LimitNOFILE= of a service)"
            return [CheckResult(self.name, "fail", text, mend)]
        limits = [node.open_file_limit for node in facts.nodes if node.open_file_limit >= 0]
        return [CheckResult(self.name, "ok", f"at least {min(limits):,}" if limits else "no limit")]


class ClockSkew:
    """All nodes have the driver's time."""

    name = "clocks"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """The nodes whose clock is wrong, by more than the look itself may be."""
        wrong = [
            node
            for node in facts.nodes
            if abs(node.clock_s) > MAX_CLOCK_SKEW_S + node.clock_error_s
        ]
        if wrong:
            each = join_names(f"{node.name} by {node.clock_s:+.1f} s" for node in wrong)
            mend = "start a time service there: chrony or systemd-timesyncd"
            return [CheckResult(self.name, "fail", f"not the driver's time: {each}", mend)]
        most = max((abs(node.clock_s) for node in facts.nodes), default=0.0)
        return [CheckResult(self.name, "ok", f"within {1000 * most:.0f} ms")]
