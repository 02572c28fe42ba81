"""Bytes per rank by ZeRO stage: what training keeps, and an estimate of what it holds a moment.

P trained parameters, E of them the encoder's (and so the teacher's), W ranks, and b bytes in
the compute dtype (bf16: 2, fp32: 4):

    stage                     0                   1             2             3
    parameters                4 P (+ casts)       b P           b P           b P / W
    gradients                 4 P                 b P + 4 P     (b + 4) P/W   (b + 4) P/W
    master and moments        8 P                 12 P / W      12 P / W      12 P / W
    teacher's fp32 shards     4 E                 4 E / W       4 E / W       4 E / W
    teacher's copy            b E                 b E           b E           b E

Stage 0 in bf16 computes by autocast over fp32 parameters, whose casts it keeps for a step. At
the other stages gradients are accumulated in fp32 beside the ones that the backward pass makes.
Offload moves master, moments and the teacher's shards to the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.job import TrainJob
from orchestrator.plan.batch import BatchPlan
from orchestrator.plan.shape import ParameterPlan, Stack, TokenPlan, pixels_per_token, stacks

Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)

# What a CUDA context, NCCL's buffers and the allocator's fragments take of a GPU.
_USABLE = 0.92
# DeepSpeed's buckets: elements of a reduction or an all-gather that are in flight at a time.
_BUCKET = 500_000_000


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

    def fits(self, memory: float) -> bool:
        """True when a device of `memory` bytes holds it with room for what no plan counts."""
        return self.device <= _USABLE * memory


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
    share = 1 if stage == 0 else world
    if stage == 0:
        weights: float = 4 * p + (b * p if b < 4 else 0)
        gradients: float = 4 * p
        optimizer: float = 8 * p
    else:
        weights = b * p / (world if stage == 3 else 1)
        gradients = (b * p + 4 * p) / (world if stage >= 2 else 1)
        gradients += b * min(_BUCKET, p) if stage >= 2 else 0
        weights += b * min(_BUCKET, p) if stage == 3 else 0
        optimizer = 12 * p / world
    shards = 4 * e / share
    moved = optimizer + shards if offload else 0.0
    return MemoryPlan(
        stage=stage,
        offload=offload,
        parameters=weights,
        gradients=gradients,
        optimizer=0.0 if offload else optimizer,
        teacher=b * e + (0.0 if offload else shards),
        activations=batch.micro * activation_bytes(job, tokens, b),
        host=moved,
    )


def activation_bytes(job: TrainJob, tokens: TokenPlan, b: int) -> float:
    """Bytes per clip that a forward keeps for its backward, all masks together (an estimate).

    A block of width d and MLP width h keeps 10 d + 2 h values a token: its input, both norms'
    outputs, qkv, the rotated q and k, attention's output, the stream after it, and the MLP's
    two. With activation checkpointing it keeps its input, and one block at a time is whole.
    """
    encoder, predictor = stacks(job)
    video = 3.0 * job.data.frames * job.data.size**2
    kept, one_block = 0.0, 0.0
    for n_c, n_t in tokens.masks:
        for stack, n in ((encoder, n_c), (predictor, n_c + n_t)):
            block = n * _block_values(stack) * b
            if job.scale.activation_checkpointing:
                kept += stack.depth * n * stack.dim * b
                one_block = max(one_block, block)
            else:
                kept += stack.depth * block
        kept += n_c * pixels_per_token(job) * b
        # Predictions, their targets and the difference, in fp32.
        kept += 3 * 4 * n_t * encoder.dim
    targets = 4.0 * tokens.clip * encoder.dim
    # The teacher keeps nothing, but a block of it is whole for a moment before the student runs.
    teacher = tokens.clip * _block_values(encoder) * b
    return video * (1 + b) + targets + max(kept + one_block, teacher)


def _block_values(stack: Stack) -> float:
    return 10.0 * stack.dim + 2.0 * stack.hidden


def checkpoint_bytes(parameters: ParameterPlan) -> int:
    """Bytes of one checkpoint over all ranks: student, two moments and teacher, in fp32."""
    return 4 * (3 * parameters.trained + parameters.teacher)
