"""Checks of capacity: the workers fit, and enough cores are left to decode their data."""

from __future__ import annotations

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts
from orchestrator.clusters.doctor.words import join_names
from orchestrator.errors import RequestError
from orchestrator.estimate import estimate_job
from orchestrator.estimate.worker_capacity import NodeResources, max_workers
from orchestrator.job import TrainJob
from orchestrator.training.placement import autoscaled_nodes, resources_per_worker


class WorkerCapacity:
    """The cluster has resources for all workers of the job."""

    name = "workers"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail if the job is larger than the cluster."""
        job = facts.job.training if facts.job else None
        if job is None:
            return [CheckResult(self.name, "ok", "no job that trains was named")]
        return [_check_workers(job, [NodeResources(node.cpus, node.gpus) for node in facts.nodes])]


def _check_workers(job: TrainJob, nodes_up: list[NodeResources]) -> CheckResult:
    """Check that Ray can place the workers: on the nodes that are up, and on those that the cluster
    starts on demand."""
    least, coming = job.scale.min_workers, autoscaled_nodes(job.scale, nodes_up)
    nodes = [*nodes_up, *coming]
    try:
        use_gpu, cpus = resources_per_worker(job, nodes)
    except RequestError as error:
        return CheckResult(WorkerCapacity.name, "fail", error.what, error.hint)
    needs = f"{cpus:g} CPUs" + (" and a GPU" if use_gpu else "")
    places = max_workers(nodes, cpus, use_gpu)
    if places < least:
        what = f"room for {places} of {least} workers that take {needs} each"
        hint = f"set scale.workers={max(places, 1)} or lower scale.cpus; or take more nodes"
        return CheckResult(WorkerCapacity.name, "fail", what, hint)
    count = min(job.scale.max_workers, places)
    left = sum(node.cpus for node in nodes) - count * cpus
    text = f"{count} with {needs} each; {left:.3g} CPUs left to read data"
    if max_workers(nodes_up, cpus, use_gpu) < count:
        text += f", when more nodes have started ({len(coming)} at most)"
    return CheckResult(WorkerCapacity.name, "ok", text)


class DecodeCores:
    """The hosts of GPUs have enough cores to decode their training data."""

    name = "decoding"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Compare the cores that `plan` estimates for these GPUs with the cores of their hosts."""
        job, hosts = (
            (facts.job.training if facts.job else None),
            [node for node in facts.nodes if node.gpus],
        )
        kinds = sorted({gpu.name for node in hosts for gpu in node.gpu_list})
        if job is None or not kinds or job.scale.device == "cpu":
            return [CheckResult(self.name, "ok", "on the workers' cores, between steps")]
        try:
            need = estimate_job(job, gpu=kinds[0]).decode_cores
        except RequestError:  # the peak rate of this GPU is unknown
            need = None
        if need is None:
            return [
                CheckResult(self.name, "ok", f"not known for {join_names(kinds)}: try bench feed")
            ]
        cores = sum(node.cores for node in hosts)
        text = f"about {need:,} cores decode for these GPUs, their hosts have {cores:,}"
        if need <= cores:
            return [CheckResult(self.name, "ok", text)]
        hint = "pack smaller video (data.encode.short_side), or take hosts with more cores"
        return [CheckResult(self.name, "warn", text, hint)]
