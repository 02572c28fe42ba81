"""The whole plan of a train job, and the ZeRO stage that a GPU needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.estimate.batch import BatchSizes
from orchestrator.estimate.buckets import (
    BucketEstimate,
    bucket_estimates,
    job_at_heaviest_bucket,
    mean_flops,
)
from orchestrator.estimate.flops import FlopEstimate
from orchestrator.estimate.hardware import Gpu, find_gpu
from orchestrator.estimate.input_cost import InputEstimate, estimate_input
from orchestrator.estimate.memory import (
    ZERO_STAGES,
    JobSizes,
    MemoryEstimate,
    ZeroStage,
    checkpoint_bytes,
    estimate_memory,
)
from orchestrator.estimate.model_shape import ParameterCounts, count_parameters
from orchestrator.estimate.objective_cost import countable
from orchestrator.estimate.token_counts import TokenCounts, count_tokens
from orchestrator.job import TrainJob

ASSUMED_MFU = 0.13
"""Share of the GPUs' peak that a step time is reckoned with where none is given: V-JEPA 2's
published pretraining (ViT-g, 16 H200, 16 frames at 256 pixels, 24 clips a GPU: 1.8 s a step)."""

_ZERO_STAGES_BY_COST: tuple[tuple[ZeroStage, bool], ...] = (
    (1, False),
    (2, False),
    (3, False),
    (3, True),
)


@dataclass(frozen=True)
class Recommendation:
    """What fits a GPU: a ZeRO stage, and how large a micro-batch, recomputed or not."""

    micro_batch: int
    activation_checkpointing: bool
    memory: MemoryEstimate

    def to_overrides(self, job: TrainJob) -> list[str]:
        """The keys of `job` that it changes, as `run` takes them."""
        wanted = {
            "zero": self.memory.stage,
            "offload": self.memory.offload,
            "micro_batch": self.micro_batch,
            "activation_checkpointing": self.activation_checkpointing,
        }
        now = job.scale.model_dump() | {"micro_batch": BatchSizes.from_scale(job.scale).micro}
        return [
            f"scale.{key}={str(value).lower()}"
            for key, value in wanted.items()
            if now[key] != value
        ]


@dataclass(frozen=True)
class JobEstimate:
    """What a step of a job is made of and what it needs.

    `parameters`, `flops`, `memory` and `checkpoint_bytes` are None or empty when a part is a
    user's own and states no cost: only building it shows.
    """

    name: str
    precision: str
    batch: BatchSizes
    tokens: TokenCounts
    parameters: ParameterCounts | None
    flops: FlopEstimate | None
    memory: tuple[MemoryEstimate, ...]
    checkpoint_bytes: int | None
    feed: InputEstimate
    gpu: Gpu | None
    recommended: Recommendation | None
    """What fits `gpu` and changes the job least; None where nothing does."""
    step_s: float | None
    """Seconds of a step: given, or at `ASSUMED_MFU` of the GPUs' peak."""

    buckets: tuple[BucketEstimate, ...]
    """The shapes of clips: mostly one. Where there are several, `tokens` is data's own, `flops`,
    `step_s` and what follows from them are those of a step on average, and `memory` is that of the
    steps which need the most."""

    @property
    def step_flops(self) -> float | None:
        """Model FLOPs of one optimizer step over all ranks, on average."""
        return self.flops.total if self.flops else None

    @property
    def clips_per_s(self) -> float | None:
        """Clips that must be decoded per second so that no step waits."""
        return self.batch.padded / self.step_s if self.step_s else None

    @property
    def decode_cores(self) -> int | None:
        """Cores over all hosts that decode that many clips (an estimate)."""
        return self.feed.cores_for(self.clips_per_s) if self.clips_per_s else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, derived figures included."""
        data = asdict(self)
        data["batch"] |= {"padded": self.batch.padded, "padding": self.batch.padding}
        data["tokens"]["clip"] = self.tokens.clip
        if self.parameters:
            data["parameters"] |= {
                "teacher": self.parameters.teacher,
                "trained": self.parameters.trained,
            }
        if self.flops:
            data["flops"]["total"] = self.flops.total
        for row, memory in zip(data["memory"], self.memory, strict=True):
            row["device"] = memory.device
        if self.recommended:
            data["recommended"]["memory"]["device"] = self.recommended.memory.device
        data["clips_per_s"] = self.clips_per_s
        data["decode_cores"] = self.decode_cores
        return data


def estimate_job(
    job: TrainJob,
    *,
    clips: int | None = None,
    gpu: str | None = None,
    mfu: float | None = None,
    step_s: float | None = None,
    world_size: int | None = None,
) -> JobEstimate:
    """Batch algebra, tokens, parameters, FLOPs, memory by ZeRO stage and data needs of a job.

    Args:
        job: a checked train job.
        clips: clips of the dataset, where it is known.
        gpu: a GPU's name (`h200`) or its memory in GiB (`24`), to recommend a stage for.
        mfu: share of the GPU's peak that is reached; default: `ASSUMED_MFU`.
        step_s: seconds of a step; default: estimated from the GPU's peak.
        world_size: workers; default: the job's own number, or its largest.

    Raises:
        RequestError: the GPU is not known.
    """
    device = find_gpu(gpu) if gpu else None
    batch, tokens = BatchSizes.from_scale(job.scale, world_size), count_tokens(job)
    feed, precision = estimate_input(job, batch, clips), job.scale.precision
    buckets = bucket_estimates(job)
    if not countable(job):
        unknown = (None, None, (), None, feed, device, None, step_s)
        return JobEstimate(job.name, precision, batch, tokens, *unknown, buckets)
    parameters, flops, shapes = (
        count_parameters(job),
        mean_flops(job),
        JobSizes.from_job(job_at_heaviest_bucket(job)),
    )
    memory = tuple(
        estimate_memory(shapes, batch, stage, offload=job.scale.offload) for stage in ZERO_STAGES
    )
    if step_s is None and device and device.peak and precision == "bf16":
        step_s = step_seconds(flops, batch, device.peak, mfu or ASSUMED_MFU)
    return JobEstimate(
        name=job.name,
        precision=precision,
        batch=batch,
        tokens=tokens,
        parameters=parameters,
        flops=flops,
        memory=memory,
        checkpoint_bytes=checkpoint_bytes(parameters),
        feed=feed,
        gpu=device,
        recommended=ConfigSearch(job).first_that_fits(device.memory, world_size=world_size)
        if device
        else None,
        step_s=step_s,
        buckets=buckets,
    )


def step_seconds(flops: FlopEstimate, batch: BatchSizes, peak: float, mfu: float) -> float:
    """Seconds of a step at a share `mfu` of the peak; rows of weight 0 cost what others do."""
    dealt = flops.total * batch.padded / batch.global_batch
    return dealt / (batch.world * peak * mfu)


class ConfigSearch:
    """What a device holds of a job whose parts are `countable`."""

    def __init__(self, job: TrainJob) -> None:
        job = job_at_heaviest_bucket(job)
        self._scale = job.scale
        self._shapes = {}
        for recompute in sorted({job.scale.activation_checkpointing, True}):
            scale = job.scale.model_copy(update={"activation_checkpointing": recompute})
            self._shapes[recompute] = JobSizes.from_job(job.model_copy(update={"scale": scale}))

    def first_that_fits(
        self,
        memory: float,
        *,
        world_size: int | None = None,
        host_memory: float | None = None,
        offload: bool = True,
    ) -> Recommendation | None:
        """The job as it is, if a stage fits; else what costs least: recomputation, smaller batches.

        ZeRO-1 unless memory says otherwise: each further stage communicates more.

        Args:
            memory: bytes of the device that computes.
            world_size: workers; default: the job's own number, or its largest.
            host_memory: bytes of the host's memory that a worker may have, where that is known.
            offload: the optimizer's state may go to the host's memory.
        """
        micro = BatchSizes.from_scale(self._scale, world_size).micro
        ways = [way for way in _ZERO_STAGES_BY_COST if offload or not way[1]]
        while micro:
            scale = self._scale.model_copy(update={"micro_batch": micro})
            batch = BatchSizes.from_scale(scale, world_size)
            for recompute, shapes in self._shapes.items():
                for stage, moved in ways:
                    held = estimate_memory(shapes, batch, stage, offload=moved)
                    if held.fits(memory, host_memory):
                        return Recommendation(micro, recompute, held)
            micro //= 2
        return None
