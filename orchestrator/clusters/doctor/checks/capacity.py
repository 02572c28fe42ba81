"""Whether the job's workers find a place, and leave cores for its data."""

from __future__ import annotations

from orchestrator.clusters.doctor.facts import Facts, Finding
from orchestrator.clusters.doctor.job_datasets import training_of
from orchestrator.clusters.doctor.words import these
from orchestrator.errors import RequestError
from orchestrator.estimate import plan
from orchestrator.estimate.worker_capacity import Node, slots
from orchestrator.job import TrainJob
from orchestrator.training.placement import reserved, to_come


class Workers:
    """All workers have a place."""

    name = "workers"

    def look(self, facts: Facts) -> list[Finding]:
        """Where the job is larger than the cluster."""
        job = training_of(facts.job)
        if job is None:
            return [Finding(self.name, "ok", "no job that trains was named")]
        return [_place(job, [Node(node.cpus, node.gpus) for node in facts.nodes])]


def _place(job: TrainJob, there: list[Node]) -> Finding:
    """Whether nodes hold the workers of a job, as Ray would deal them out: these, and those that
    the cluster starts for it."""
    least, coming = job.scale.least_workers, to_come(job.scale, there)
    nodes = [*there, *coming]
    try:
        use_gpu, cpus = reserved(job, nodes)
    except RequestError as error:
        return Finding(Workers.name, "fail", error.what, error.mend)
    needs = f"{cpus:g} CPUs" + (" and a GPU" if use_gpu else "")
    places = slots(nodes, cpus, use_gpu)
    if places < least:
        what = f"room for {places} of {least} workers that take {needs} each"
        mend = f"set scale.workers={max(places, 1)} or lower scale.cpus; or take more nodes"
        return Finding(Workers.name, "fail", what, mend)
    count = min(job.scale.most_workers, places)
    left = sum(node.cpus for node in nodes) - count * cpus
    text = f"{count} with {needs} each; {left:.3g} CPUs left to read data"
    if slots(there, cpus, use_gpu) < count:
        text += f", when more nodes have started ({len(coming)} at most)"
    return Finding(Workers.name, "ok", text)


class DataCores:
    """The hosts of GPUs have cores enough to decode what they train on."""

    name = "decoding"

    def look(self, facts: Facts) -> list[Finding]:
        """What `plan` says of these GPUs, beside the cores that are there."""
        job, hosts = training_of(facts.job), [node for node in facts.nodes if node.gpus]
        kinds = sorted({gpu.name for node in hosts for gpu in node.gpu_list})
        if job is None or not kinds or job.scale.device == "cpu":
            return [Finding(self.name, "ok", "beside the step, on the workers' cores")]
        try:
            need = plan(job, gpu=kinds[0]).decode_cores
        except RequestError:  # a GPU whose peak is not known
            need = None
        if need is None:
            return [Finding(self.name, "ok", f"not known for {these(kinds)}: try bench feed")]
        cores = sum(node.cores for node in hosts)
        text = f"about {need:,} cores decode for these GPUs, their hosts have {cores:,}"
        if need <= cores:
            return [Finding(self.name, "ok", text)]
        mend = "pack smaller video (data.encode.short_side), or take hosts with more cores"
        return [Finding(self.name, "warn", text, mend)]
