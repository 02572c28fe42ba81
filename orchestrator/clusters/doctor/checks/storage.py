"""Checks of the storage: all nodes share it, and it has enough free space."""

from __future__ import annotations

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts
from orchestrator.clusters.doctor.words import format_bytes, join_names
from orchestrator.estimate import estimate_job
from orchestrator.job import TrainJob
from orchestrator.storage import is_remote


class SharedStorage:
    """Every node can write, and reads what every other node wrote."""

    name = "storage"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail for nodes that cannot write, or cannot read the files of others."""
        found = []
        for node in facts.nodes:
            if node.write_error:
                text = f"{node.name} cannot write to {facts.storage}: {node.write_error}"
                hint = "mount it there, with the right to write; object stores: credentials there"
                found.append(CheckResult(self.name, "fail", text, hint))
            if node.missing_writers:
                writers = join_names(node.missing_writers)
                text = f"{node.name} does not see in {facts.storage} what {writers} wrote"
                hint = "name a storage that all nodes share: a mounted folder, s3:// or gs://"
                found.append(CheckResult(self.name, "fail", text, hint))
        firsts = [node.name for node in facts.nodes if node.created_first]
        if not found and len(firsts) > 1 and not is_remote(facts.storage):
            text = f"{join_names(firsts)} created the same file, each as the first"
            hint = "use a file system with hard links (NFS 4, Lustre, a local disk), or s3://"
            found.append(CheckResult(self.name, "fail", text, hint))
        if found:
            return found
        who = "every node" if len(facts.nodes) > 1 else "this machine"
        text = f"{facts.storage}: {who} writes, creates and reads"
        return [CheckResult(self.name, "ok", text)]


class FreeSpace:
    """Free space for the checkpoints that the job keeps."""

    name = "free space"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail if the checkpoints need more than is free."""
        free = min((node.free for node in facts.nodes if node.free is not None), default=None)
        if free is None:
            return [CheckResult(self.name, "ok", "an object store has no limit")]
        job = facts.job.training if facts.job else None
        need = checkpoints_bytes(job) if job else None
        if need is None:
            return [CheckResult(self.name, "ok", f"{format_bytes(free)} free")]
        if need > free:
            hint = "free some, name another storage, or lower checkpoint.keep_last or max_bytes"
            text = f"{format_bytes(free)} free, the job's checkpoints take {format_bytes(need)}"
            return [CheckResult(self.name, "fail", text, hint)]
        text = f"{format_bytes(free)} free, the job's checkpoints take {format_bytes(need)}"
        return [CheckResult(self.name, "ok", text)]


def checkpoints_bytes(job: TrainJob) -> int | None:
    """Largest size in bytes of all checkpoints at once: those kept, and one being written.

    None for a custom component, whose size is unknown before it is built.
    """
    one = estimate_job(job).checkpoint_bytes
    if one is None:
        return None
    keep = job.checkpoint
    count = keep.keep_last + keep.keep_best + 1
    if keep.keep_every:
        count += job.optim.steps // keep.keep_every
    return min(one * count, keep.max_bytes) if keep.max_bytes else one * count
