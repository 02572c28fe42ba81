"""Bytes per rank by ZeRO stage: what training keeps between steps, and what a step adds at most.

P trained parameters, E of them the encoder's (and so of a teacher that follows it), W ranks, and b
bytes in the compute dtype (bf16: 2, fp32: 4). Kept between steps by DeepSpeed and the teacher:

    stage                     0             1             2             3
    parameters                4 P           b P           b P           b P / W (and the small)
    gradients, fp32           -             4 P (bf16)    -             4 P / W + a bucket
    master and moments        8 P           12 P / W      12 P / W      12 P / W
    teacher's fp32 shards     4 E           4 E / W       4 E / W       4 E / W
    teacher's copy            b E           b E           b E           b E

(A frozen teacher of F parameters takes b F at every stage. At stage 0 in fp32 a following teacher's
accumulator is its copy. Stage 3 keeps small tensors whole beside their parts:
`estimate/zero3_persistent.py`.) Offload moves master, moments, the teacher's shards and the
gradients' part to the host.

A step adds most at one of these moments, and `estimate_memory` counts that one (`delta_by_phase`):

- the end of the forward: activations; at stage 0 autocast's casts, at stage 3 the parameters that
  are gathered, of which DeepSpeed keeps up to 10^9;
- between two masks: the encoder is read once for each of them, and autograd holds all gradients
  of the masks that are done, in the compute dtype, until those of the last one are added;
- the reduction: at stage 0, and at 1 in bf16, a flat copy of the gradients; else a bucket, its
  flat copy and its cast to fp32, while the gradients of the next buckets wait;
- at stage 3 the refresh of the teacher's copy.

`orchestrator bench memory` measures all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from orchestrator.estimate.activations import ActivationBytes, activations, sigreg_means_bytes
from orchestrator.estimate.batch import BatchSizes
from orchestrator.estimate.model_shape import ParameterCounts, count_parameters
from orchestrator.estimate.objective_cost import objective_cost
from orchestrator.estimate.zero3_persistent import persistent_elements
from orchestrator.job import TrainJob

ZeroStage = Literal[0, 1, 2, 3]
ZERO_STAGES: tuple[ZeroStage, ...] = (0, 1, 2, 3)

# What a CUDA context, NCCL's buffers and the allocator's fragments take of a GPU.
_USABLE_FRACTION = 0.92
# Elements: the bucket of `training.deepspeed_config`; DeepSpeed's own flat copies, at stage 0 and
# at 1 in bf16; and the parameters that stage 3 keeps gathered (stage3_max_live_parameters).
_REDUCE_BUCKET_ELEMENTS = 50_000_000
_FLAT_BUFFER_ELEMENTS = 500_000_000
_MAX_LIVE_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank. All but `host` are on the device that computes."""

    stage: ZeroStage
    offload: bool
    parameters: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    """At the end of a forward; part of `step` where that is the moment."""

    step: float
    """What a step adds at most to what is kept."""

    moment: str
    """When: forward, backward, reduction or update."""

    host: float

    @property
    def between_steps(self) -> float:
        """Bytes on the device between two steps."""
        return self.parameters + self.gradients + self.optimizer + self.teacher

    @property
    def device(self) -> float:
        """Bytes on the device at the peak of a step."""
        return self.between_steps + self.step

    def fits(self, memory: float, host_memory: float | None = None) -> bool:
        """True when a device of `memory` bytes holds it with room for what no plan counts, and
        its share of the host's memory (None: not known) what is moved there."""
        return self.device <= _USABLE_FRACTION * memory and (
            host_memory is None or self.host <= _USABLE_FRACTION * host_memory
        )


@dataclass(frozen=True)
class JobSizes:
    """What the shapes of a `countable` job come to, whatever its workers and its ZeRO stage: one
    plan of a thousand sizes counts it once."""

    job: TrainJob
    parameters: ParameterCounts
    dtype_bytes: int
    """Bytes of the compute dtype."""

    activations: ActivationBytes
    sigreg_means: float
    """Bytes of SIGReg's means."""

    encoder_passes: int
    """Sequences of a clip that the encoder reads."""

    @classmethod
    def from_job(cls, job: TrainJob) -> JobSizes:
        width = 2 if job.scale.precision == "bf16" else 4
        return cls(
            job=job,
            parameters=count_parameters(job),
            dtype_bytes=width,
            activations=activations(job, width),
            sigreg_means=sigreg_means_bytes(job),
            encoder_passes=len(objective_cost(job).encoder_lengths),
        )

    @cached_property
    def persistent_elements(self) -> int:
        """Elements that stage 3 keeps whole."""
        return persistent_elements(self.job)


def estimate_memory(
    shapes: JobSizes, batch: BatchSizes, stage: ZeroStage, *, offload: bool
) -> MemoryEstimate:
    """Memory of one rank of `batch.world` at a ZeRO stage (0 has no offload)."""
    offload = offload and stage > 0
    parameters, b = shapes.parameters, shapes.dtype_bytes
    p, e, world = parameters.trained, parameters.teacher, batch.world
    optimizer = 8 * p if stage == 0 else 12 * p / world
    # A frozen teacher is there once, in the compute dtype; nothing follows in fp32.
    follows = e if parameters.followed else 0
    shards = 4 * follows / (world if stage else 1)
    copy = 0 if stage == 0 and b == 4 and follows else b * e
    small = shapes.persistent_elements if stage == 3 and world > 1 else 0
    step = _StepMemory(
        trained_parameters=p,
        teacher_parameters=follows,
        persistent_elements=small,
        world_size=world,
        dtype_bytes=b,
        stage=stage,
        offload=offload,
        activations_after_forward=batch.micro * shapes.activations.after_forward
        + shapes.sigreg_means,
        activations_after_last_mask=batch.micro * shapes.activations.after_last_mask_backward
        + shapes.sigreg_means,
        several_encoder_passes=shapes.encoder_passes > 1,
        accumulates=batch.accum > 1,
        gloo=shapes.job.scale.device == "cpu",
    )
    added = step.delta_by_phase()
    moment = max(added, key=lambda name: added[name])
    moved = (2 * 4 if stage == 3 else 4 + (b if b < 4 else 0)) * p / world
    return MemoryEstimate(
        stage=stage,
        offload=offload,
        parameters=(4 if stage == 0 else b) * p / (world if stage == 3 else 1) + b * small,
        gradients=step.kept_gradients(),
        optimizer=0.0 if offload else optimizer,
        teacher=copy + (0.0 if offload else shards),
        activations=step.activations_after_forward,
        step=added[moment],
        moment=moment,
        host=optimizer + shards + moved if offload else 0.0,
    )


@dataclass(frozen=True)
class _StepMemory:
    """What a step adds to what is kept, in bytes."""

    trained_parameters: int
    teacher_parameters: int
    persistent_elements: int
    """Elements that stage 3 keeps whole."""
    world_size: int
    dtype_bytes: int
    stage: ZeroStage
    offload: bool
    activations_after_forward: float
    """Activations at the end of a forward."""
    activations_after_last_mask: float
    """Activations when the last mask's backward pass is done."""
    several_encoder_passes: bool
    """The encoder is read several times."""
    accumulates: bool
    gloo: bool
    """Ranks meet over gloo, which reduces into a copy."""

    @property
    def bucket(self) -> int:
        """Elements that are reduced at a time."""
        return min(self.trained_parameters, _REDUCE_BUCKET_ELEMENTS)

    @property
    def pending_gradients(self) -> float:
        """Gradients of the masks that are done, while another mask's come."""
        return (
            float(self.dtype_bytes * self.trained_parameters)
            if self.several_encoder_passes
            else 0.0
        )

    @property
    def activations_at_first_bucket(self) -> float:
        """Activations when the gradients of the first bucket are there."""
        return self.activations_after_last_mask * (1 - self.bucket / self.trained_parameters)

    def kept_gradients(self) -> float:
        """What is there between two steps."""
        if self._fp32_gradient_buffer:
            return 4.0 * self.trained_parameters
        if self.stage == 3:
            return 4.0 * self.bucket + (
                0.0 if self.offload else 4 * self.trained_parameters / self.world_size
            )
        return 0.0

    @property
    def _fp32_gradient_buffer(self) -> bool:
        """DeepSpeed's BF16_Optimizer: stage 1 in bf16 without offload."""
        return self.stage == 1 and self.dtype_bytes < 4 and not self.offload

    def delta_by_phase(self) -> dict[str, float]:
        """By moment."""
        if self.stage == 0:
            return self._at_stage_0()
        if self._fp32_gradient_buffer:
            return self._at_stage_1()
        return self._at_stage_3() if self.stage == 3 else self._in_buckets()

    def _at_stage_0(self) -> dict[str, float]:
        p = self.trained_parameters
        casts = self.dtype_bytes * p if self.dtype_bytes < 4 else 0
        before = 4 * p if self.accumulates else 0
        return {
            "forward": self.activations_after_forward + casts + before,
            "backward": self.activations_after_last_mask + casts + before + self.pending_gradients,
            "reduction": 4 * p + (4 * min(p, _FLAT_BUFFER_ELEMENTS) if self.world_size > 1 else 0),
        }

    def _at_stage_1(self) -> dict[str, float]:
        """In bf16: this dtype's gradients stay until they are reduced in fp32."""
        narrow = self.dtype_bytes * self.trained_parameters
        return {
            "forward": self.activations_after_forward + (narrow if self.accumulates else 0),
            "backward": self.activations_after_last_mask + self.pending_gradients,
            "reduction": narrow + 4.0 * min(self.trained_parameters, _FLAT_BUFFER_ELEMENTS),
        }

    def _in_buckets(self) -> dict[str, float]:
        """Stage 2, and stage 1 in fp32 or with offload."""
        p, b, bucket = self.trained_parameters, self.dtype_bytes, self.bucket
        part = 4 * p / (self.world_size if self.stage == 2 else 1)
        before = part if self.accumulates else 0.0
        wide = self.dtype_bytes if self.stage == 2 else 4
        waits = wide * (p - bucket) if self.several_encoder_passes or self.stage == 1 else 0.0
        # In bf16 this rank's part is made in fp32 beside it all.
        mine = max(before, 4 * p / self.world_size) if b < 4 else before
        reducing = 2 * wide * bucket + (4 * bucket if wide < 4 else 0)
        return {
            "forward": self.activations_after_forward + before,
            "backward": self.activations_after_last_mask
            + before
            + self.pending_gradients
            + wide * bucket,
            "reduction": self.activations_at_first_bucket + waits + reducing + mine,
        }

    def _at_stage_3(self) -> dict[str, float]:
        p, b, bucket = self.trained_parameters, self.dtype_bytes, self.bucket
        gathered = (
            b * min(p - self.persistent_elements, _MAX_LIVE_PARAMETERS)
            if self.world_size > 1
            else 0
        )
        waits = b * (p - bucket) if self.several_encoder_passes else 0
        reducing = (2 if self.gloo and self.world_size > 1 else 1) * 4 * bucket
        return {
            "forward": self.activations_after_forward + gathered,
            "backward": self.activations_after_last_mask + gathered + self.pending_gradients,
            "reduction": self.activations_at_first_bucket + gathered + waits + reducing,
            "update": b * self.teacher_parameters * (1 + 1 / self.world_size),
        }


def checkpoint_bytes(parameters: ParameterCounts) -> int:
    """Bytes of one checkpoint over all ranks: student, two moments and teacher, in fp32."""
    followed = parameters.teacher if parameters.followed else 0
    return 4 * (3 * parameters.trained + followed)
