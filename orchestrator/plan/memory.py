"""Bytes per rank by ZeRO stage: what training keeps, and an estimate of what it holds a moment.

P trained parameters, E of them the encoder's (and so the teacher's), W ranks, and b bytes in
the compute dtype (bf16: 2, fp32: 4). What DeepSpeed and the teacher keep between steps:

    stage                     0             1             2             3
    parameters                4 P           b P           b P           b P / W
    gradients, fp32           4 P           4 P           4 P / W       4 P / W
    master and moments        8 P           12 P / W      12 P / W      12 P / W
    teacher's fp32 shards     4 E           4 E / W       4 E / W       4 E / W
    teacher's copy            b E           b E           b E           b E

Beside it, for a moment: at stage 0 the casts of autocast (bf16) and, with several ranks, two
flat copies of the gradients; at stage 1 in fp32 this rank's part of them once more; the
bucket that is being reduced (not at stage 1 in bf16); at stage 3 the parameters that were
gathered, which DeepSpeed keeps up to 10^9 of. At stage 0 in fp32 the teacher's accumulator is
its copy. Offload moves master, moments and the teacher's shards to the host, with the
gradients' part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.job import LeJEPA, TrainJob
from orchestrator.plan.batch import BatchPlan
from orchestrator.plan.shape import (
    KNOTS,
    ParameterPlan,
    Stack,
    TokenPlan,
    encoder_reads,
    followed,
    horizons,
    pixels_per_token,
    predicted_width,
    predictor_reads,
    stacks,
    statistic_size,
)

Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)

# What a CUDA context, NCCL's buffers and the allocator's fragments take of a GPU.
_USABLE = 0.92
# Elements: the bucket of `training.deepspeed_config`; DeepSpeed's own bucket at stage 0; and
# the parameters that its stage 3 keeps gathered (stage3_max_live_parameters).
_BUCKET = 50_000_000
_BUCKET_STAGE_0 = 500_000_000
_LIVE_STAGE_3 = 1_000_000_000


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one rank. All but `host` are on the device that computes."""

    stage: Stage
    offload: bool
    parameters: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    host: float

    @property
    def device(self) -> float:
        """Bytes on the device at the peak of a step."""
        return self.parameters + self.gradients + self.optimizer + self.teacher + self.activations

    def fits(self, memory: float, ram: float | None = None) -> bool:
        """True when a device of `memory` bytes holds it with room for what no plan counts, and
        its share of the host's memory (None: not known) what is moved there."""
        return self.device <= _USABLE * memory and (ram is None or self.host <= _USABLE * ram)


def memory_plan(
    job: TrainJob,
    batch: BatchPlan,
    tokens: TokenPlan,
    parameters: ParameterPlan,
    stage: Stage,
    *,
    offload: bool,
) -> MemoryPlan:
    """Memory of one rank of `batch.world` at a ZeRO stage (0 has no offload)."""
    offload = offload and stage > 0
    p, e, world = parameters.trained, parameters.teacher, batch.world
    b = 2 if job.scale.precision == "bf16" else 4
    optimizer = 8 * p if stage == 0 else 12 * p / world
    shards = 4 * e / (world if stage else 1)
    copy = 0 if stage == 0 and b == 4 else b * e
    return MemoryPlan(
        stage=stage,
        offload=offload,
        parameters=_weights(p, world, b, stage),
        gradients=_gradients(p, world, b, stage, offload),
        optimizer=0.0 if offload else optimizer,
        teacher=copy + (0.0 if offload else shards),
        activations=batch.micro * activation_bytes(job, tokens, b) + _means(job, tokens),
        host=optimizer + shards + 4 * p / world if offload else 0.0,
    )


def _weights(p: int, world: int, b: int, stage: Stage) -> float:
    if stage == 0:
        return 4 * p + (b * p if b < 4 else 0)
    if stage == 3:
        return b * p / world + (b * min(p, _LIVE_STAGE_3) if world > 1 else 0)
    return b * p


def _gradients(p: int, world: int, b: int, stage: Stage, offload: bool) -> float:
    if stage == 0:
        return 4 * p + (8 * min(p, _BUCKET_STAGE_0) if world > 1 else 0)
    if stage == 1 and b == 2 and not offload:
        return 4 * p
    if stage == 1:
        # Offload accumulates beside what the backward pass leaves; fp32 accumulates in place.
        return 4 * p + b * _BUCKET + (4 * p / world if b == 4 else b * p)
    # Stage 2 reduces a bucket in the compute dtype by way of an fp32 copy; stage 3 keeps one.
    return 4 * p / world + (4 if stage == 3 else b + 4) * _BUCKET


def activation_bytes(job: TrainJob, tokens: TokenPlan, b: int) -> float:
    """Bytes per clip that a forward keeps for its backward, all masks together (an estimate).

    A block of width d and MLP width h keeps 10 d + 2 h values a token: its input, both norms'
    outputs, qkv, the rotated q and k, attention's output, the stream after it, and the MLP's
    two; a second attention keeps 8 d more. With activation checkpointing it keeps its input, and
    one block at a time is whole.
    """
    encoder, predictor = stacks(job)
    video = 3.0 * job.data.frames * job.data.size**2
    kept, one_block = 0.0, 0.0
    read = [(encoder, n) for n in encoder_reads(job, tokens)]
    kept += sum(n for _, n in read) * pixels_per_token(job) * b
    for stack, n in read + [(predictor, n) for n in predictor_reads(job, tokens)]:
        block = n * _block_values(stack) * b
        if job.scale.activation_checkpointing:
            kept += stack.depth * n * stack.dim * b
            one_block = max(one_block, block)
        else:
            kept += stack.depth * block
    # Predictions, their targets and the difference, in fp32.
    asked = sum(n_t for _, n_t in tokens.masks) or sum(predictor_reads(job, tokens))
    kept += 3 * 4 * asked * horizons(job) * predicted_width(job)
    if isinstance(job.objective, LeJEPA):
        # The projections, their slope, and a knot's cosines, sines and distances.
        kept += 7 * 4 * statistic_size(job, tokens)[1]
    targets = 4.0 * tokens.clip * predicted_width(job)
    # The teacher keeps nothing, but a block of it is whole for a moment before the student runs.
    teacher = tokens.clip * _block_values(encoder) * b if followed(job) else 0.0
    return video * (1 + b) + targets + max(kept + one_block, teacher)


def _means(job: TrainJob, tokens: TokenPlan) -> float:
    """Bytes of SIGReg's means of cos and sin at every knot, of every set and projection."""
    if not isinstance(job.objective, LeJEPA):
        return 0.0
    sets, projected = statistic_size(job, tokens)
    return 4.0 * 2 * KNOTS * sets * projected


def _block_values(stack: Stack) -> float:
    return (2.0 + 8.0 * stack.attentions) * stack.dim + 2.0 * stack.hidden


def checkpoint_bytes(parameters: ParameterPlan) -> int:
    """Bytes of one checkpoint over all ranks: student, two moments and teacher, in fp32."""
    return 4 * (3 * parameters.trained + parameters.teacher)
