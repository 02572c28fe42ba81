"""Whether the job's workers find a place, and leave cores for its data."""

from __future__ import annotations

from orchestrator.clusters.doctor.datasets import training_of
from orchestrator.clusters.doctor.facts import Facts, Finding
from orchestrator.clusters.doctor.words import these
from orchestrator.errors import RequestError
from orchestrator.job import TrainJob
from orchestrator.plan import plan
from orchestrator.training.placement import Room, share


class Workers:
    """All workers have a place."""

    name = "workers"

    def look(self, facts: Facts) -> list[Finding]:
        """Where the job is larger than the cluster."""
        job = training_of(facts.job)
        if job is None:
            return [Finding(self.name, "ok", "no job that trains was named")]
        rooms = tuple(Room(node.cpus, node.gpus) for node in facts.nodes)
        return [place(job, rooms)]


def place(job: TrainJob, rooms: tuple[Room, ...]) -> Finding:
    """Whether nodes with this room hold the workers of a job, as Ray would deal them out."""
    least = job.scale.least_workers
    try:
        each = share(job, sum(room.cpus for room in rooms), sum(room.gpus for room in rooms))
    except RequestError as error:
        return Finding(Workers.name, "fail", error.what, error.mend)
    needs = f"{each.cpus:g} CPUs" + (" and a GPU" if each.gpu else "")
    places = sum(each.places(room) for room in rooms)
    if places < least:
        what = f"room for {places} of {least} workers that take {needs} each"
        mend = f"set scale.workers={max(places, 1)} or lower scale.cpus; or take more nodes"
        return Finding(Workers.name, "fail", what, mend)
    count = job.scale.most_workers if places >= job.scale.most_workers else places
    left = sum(room.cpus for room in rooms) - count * each.cpus
    text = f"{count} with {needs} each; {left:.3g} CPUs left to read data"
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
