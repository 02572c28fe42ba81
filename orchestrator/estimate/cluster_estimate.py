"""A job on the cluster of a profile: what fits, how long it takes, what it costs. Asks nobody."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.estimate.batch import BatchSizes
from orchestrator.estimate.buckets import job_at_heaviest_bucket
from orchestrator.estimate.checkpoint_cost import CheckpointEstimate, estimate_checkpoints
from orchestrator.estimate.hardware import GIB, Gpu, find_gpu
from orchestrator.estimate.job_estimate import (
    ASSUMED_MFU,
    ConfigSearch,
    JobEstimate,
    Recommendation,
    estimate_job,
    step_seconds,
)
from orchestrator.estimate.memory import JobSizes, MemoryEstimate, ZeroStage, estimate_memory
from orchestrator.estimate.placement import NodeAllocation, WorkerPlacement
from orchestrator.job import TrainJob
from orchestrator.job.config.scale import ElasticWorkers

ZERO_AND_OFFLOAD: tuple[tuple[ZeroStage, bool], ...] = (
    (0, False), (1, False), (2, False), (3, False), (1, True), (2, True), (3, True),
)  # fmt: skip
"""ZeRO stages, and whether the optimizer's state is in host memory."""


@dataclass(frozen=True)
class WorldSizeEstimate:
    """The job at one number of workers."""

    batch: BatchSizes
    hosts: NodeAllocation
    fits: Recommendation | None
    """What a worker's memory holds, the job changed as little as can be; None: nothing, or the
    memory is not known."""

    compute_s: float | None
    """Seconds that the workers compute a step."""

    decode_cores: int | None
    """Cores that decode a step's clips in that time."""

    cores: int
    """Cores of those nodes that are free to decode: beside a GPU each worker keeps one busy."""

    step_s: float | None
    """Seconds of a step: longer than `compute_s` where decoding holds it up."""

    hours: float | None
    """Of all steps."""

    gpu_hours: float | None
    cost: float | None
    """Of all nodes that are paid meanwhile; None where a price or the time is not known."""


@dataclass(frozen=True)
class Problem:
    """Why the job cannot run there as it is."""

    what: str
    mend: str


@dataclass(frozen=True)
class ClusterEstimate:
    """A job's plan on a cluster, at every number of workers that the job allows and that fits."""

    plan: JobEstimate
    """At the largest of them."""

    cluster: str
    kind: str
    on_gpus: bool
    gpu: Gpu | None
    slots: int
    """Workers that the cluster holds at most."""

    slots_at_once: int
    """Workers that the nodes hold which are always there."""

    mfu: float | None
    """Share of the GPUs' peak that the step time was reckoned with; None: the time was given, or
    is not known."""

    memory: tuple[MemoryEstimate, ...]
    """By ZeRO stage, then with offload, at the largest size."""

    sizes: tuple[WorldSizeEstimate, ...]
    saving: CheckpointEstimate | None
    problem: Problem | None
    notes: tuple[str, ...]
    """What was assumed, and what is not known and why."""

    @property
    def largest(self) -> WorldSizeEstimate:
        """The job at most workers."""
        return self.sizes[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, derived figures included."""
        data = {**asdict(self), "plan": self.plan.to_dict()}
        for row, memory in zip(data["memory"], self.memory, strict=True):
            row["device"] = memory.device
        for row, size in zip(data["sizes"], self.sizes, strict=True):
            row["batch"] |= {"padded": size.batch.padded, "padding": size.batch.padding}
            if size.fits:
                row["fits"]["memory"]["device"] = size.fits.memory.device
        return data


def estimate_on_cluster(
    job: TrainJob,
    profile: Profile,
    *,
    clips: int | None = None,
    gpu: str | None = None,
    mfu: float | None = None,
    step_s: float | None = None,
) -> ClusterEstimate:
    """What `job` needs and meets on the cluster of `profile`, nodes at most.

    Args:
        clips: clips of the dataset, where it is known.
        gpu: in place of the profile's: a GPU's name or its memory in GiB.
        mfu: share of the peak that the workers reach; default: `ASSUMED_MFU`.
        step_s: seconds of a step at the largest number of workers, measured.

    Raises:
        RequestError: the GPU is not known.
    """
    place = WorkerPlacement(profile, job.scale, find_gpu(gpu) if gpu else None)
    least = job.scale.min_workers
    worlds = range(least, max(least, min(job.scale.max_workers, place.max_workers)) + 1)
    whole = estimate_job(job, clips=clips, step_s=step_s, world_size=worlds[-1])
    pace = _StepTime(whole, place, mfu, step_s)
    fitting = ConfigSearch(job) if whole.parameters is not None else None
    sizes = tuple(_estimate_at(job, place, whole, pace, fitting, world) for world in worlds)
    saving = None
    if whole.checkpoint_bytes is not None:
        saving = estimate_checkpoints(job, whole.checkpoint_bytes)
    return ClusterEstimate(
        plan=whole,
        cluster=profile.name,
        kind=profile.kind,
        on_gpus=place.on_gpus,
        gpu=place.gpu,
        slots=place.max_workers,
        slots_at_once=place.always_available_workers,
        mfu=pace.mfu,
        memory=_memory_by_zero_stage(job, whole),
        sizes=sizes,
        saving=saving,
        problem=_problem(job, place, whole, sizes),
        notes=tuple(_notes(job, place, whole, pace)),
    )


class _StepTime:
    """How long a step computes, at any number of workers."""

    def __init__(
        self, whole: JobEstimate, place: WorkerPlacement, mfu: float | None, step_s: float | None
    ) -> None:
        peak = place.gpu.peak if place.gpu else None
        known = whole.flops is not None and peak is not None and whole.precision == "bf16"
        self.mfu = (mfu or ASSUMED_MFU) if known and step_s is None else None
        self._whole, self._peak, self._step_s = whole, peak, step_s

    def seconds(self, batch: BatchSizes) -> float | None:
        """Of a step; a time that was given grows with the clips that a worker is dealt."""
        if self._step_s is not None:
            most = self._whole.batch
            return self._step_s * (batch.micro * batch.accum) / (most.micro * most.accum)
        if self.mfu is None or self._peak is None or self._whole.flops is None:
            return None
        return step_seconds(self._whole.flops, batch, self._peak, self.mfu)


def _estimate_at(
    job: TrainJob,
    place: WorkerPlacement,
    whole: JobEstimate,
    pace: _StepTime,
    fitting: ConfigSearch | None,
    world: int,
) -> WorldSizeEstimate:
    batch, hosts = BatchSizes.from_scale(job.scale, world), place.allocate(world)
    fits = None
    if hosts.memory is not None and fitting is not None:
        ram = hosts.ram if place.on_gpus else None
        fits = fitting.first_that_fits(
            hosts.memory, world_size=world, host_memory=ram, offload=place.on_gpus
        )
    compute_s = pace.seconds(batch)
    # On a CPU a step and its decoding share the cores, and the time that was given has both.
    cores = max(0, hosts.cores - world) if place.on_gpus else hosts.cores
    step_s, decode_cores = compute_s, None
    if compute_s is not None:
        decode_cores = whole.feed.cores_for(batch.padded / compute_s)
        if place.on_gpus and cores:
            step_s = max(compute_s, batch.padded / (cores * whole.feed.core_clips_per_s))
    hours = step_s * job.optim.steps / 3600 if step_s is not None else None
    return WorldSizeEstimate(
        batch=batch,
        hosts=hosts,
        fits=fits,
        compute_s=compute_s,
        decode_cores=decode_cores,
        cores=cores,
        step_s=step_s,
        hours=hours,
        gpu_hours=hours * world if hours is not None and place.on_gpus else None,
        cost=hours * rate if hours is not None and (rate := place.hourly_cost(hosts)) else None,
    )


def _memory_by_zero_stage(job: TrainJob, whole: JobEstimate) -> tuple[MemoryEstimate, ...]:
    if whole.parameters is None:
        return ()
    shapes = JobSizes.from_job(job_at_heaviest_bucket(job))
    return tuple(
        estimate_memory(shapes, whole.batch, stage, offload=moved)
        for stage, moved in ZERO_AND_OFFLOAD
    )


def _problem(
    job: TrainJob, place: WorkerPlacement, whole: JobEstimate, sizes: tuple[WorldSizeEstimate, ...]
) -> Problem | None:
    least, name = job.scale.min_workers, place.profile.name
    if place.on_gpus and not place.gpus:
        return Problem(
            f"the job asks for GPUs, and '{name}' has none", "set scale.device=cpu, or send it"
            " to another cluster",
        )  # fmt: skip
    if place.on_gpus and place.gpus < least:
        return Problem(
            f"{least:,} workers need {least:,} GPUs; '{name}' has {place.gpus:,} on all its nodes",
            f"set {_workers_key(job)}={place.gpus}, or give the profile more nodes",
        )
    if place.max_workers < least:
        each = f"{'a GPU and ' if place.on_gpus else ''}{place.cpus:g} cores"
        mend = (
            f"set {_workers_key(job)}={place.max_workers}"
            if place.max_workers
            else "lower scale.cpus"
        )
        return Problem(
            f"{least:,} workers, each with {each}, do not fit: '{name}' holds"
            f" {place.max_workers:,} of them with all its nodes",
            f"{mend}, or give the profile more nodes",
        )
    largest = sizes[-1]
    if largest.fits is None and largest.hosts.memory is not None and whole.parameters is not None:
        smallest = min(memory.device for memory in _memory_by_zero_stage(job, whole)) / GIB
        return Problem(
            f"not even one clip of the job fits the {largest.hosts.memory / GIB:.3g} GiB that a"
            f" worker has on '{name}' (as it is, it needs {smallest:.3g} GiB)",
            "take a smaller model or shorter clips, or send it to larger machines",
        )
    return None


def _workers_key(job: TrainJob) -> str:
    """The key that says how many workers there are at least."""
    return "scale.workers.min" if isinstance(job.scale.workers, ElasticWorkers) else "scale.workers"


def _notes(job: TrainJob, place: WorkerPlacement, whole: JobEstimate, pace: _StepTime) -> list[str]:
    notes = []
    if place.on_gpus and place.gpus and place.gpu is None:
        notes.append(
            "what its GPUs are is not known: name them in the profile (gpu: h200) or give --gpu"
        )
    if whole.flops is None:
        notes.append("a part of the job is your own: its memory and FLOPs are known once built")
    if pace.mfu == ASSUMED_MFU:
        notes.append(
            f"steps are reckoned at {ASSUMED_MFU:.0%} of the GPUs' peak at every size: what V-JEPA"
            " 2's published pretraining reaches (ViT-g, 16 H200, 24 clips each; fewer clips a GPU"
            " reach less). Better: --mfu or --step-s, measured by `orchestrator bench step`"
        )
    elif pace.mfu is None and pace.seconds(whole.batch) is None:
        why = "no peak is known for these machines"
        if place.gpu and place.gpu.peak and whole.precision == "fp32":
            why = "no peak is known in fp32"
        notes.append(
            f"{why}, so neither time nor cost: measure a step with `orchestrator bench step` and"
            " give it as --step-s"
        )
    unpriced = place.unpriced(place.allocate(whole.batch.world))
    if unpriced:
        notes.append(f"no cost: the profile has no price of nodes.{unpriced[0]}")
    return notes
