"""FLOPs of a job's step, counted exactly from its shapes.

They count the matrix products that the model defines, 2 m n k each; norms, activations and
rotations are left out (about 1%). For a block of width d and MLP width h on n tokens:

    forward = 2 n (4 d^2 + 2 d h)  +  4 n^2 d        (projections and MLP; attention)

A backward pass costs twice its forward (the gradients of the input and of the weight), except
for the first layer, whose input needs none. What is computed again (flash attention,
activation checkpointing) is no model FLOP; checkpointing's repeat is `FlopEstimate.recomputed`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.estimate.batch import BatchSizes
from orchestrator.estimate.layer_cost import RecurrentPredictorCost
from orchestrator.estimate.model_shape import (
    TokenCounts,
    action_in_proj,
    action_mlp_out,
    embedding_dim,
    encoder_and_predictor,
    inverse_dynamics_head,
    num_horizons,
    num_predicted_tokens,
    patch_embed,
    prediction_dim,
    predictor_in_proj,
    projector_tensor_sizes,
    state_head,
    teacher_blocks,
    teacher_patch_embed,
)
from orchestrator.job import (
    VJEPA2AC,
    CausalPrediction,
    LatentDynamics,
    LeJEPA,
    LeWM,
    SIGRegObjective,
    Supervised,
    TrainJob,
)

SIGREG_KNOTS = 16
"""Knots of SIGReg that cost anything (`orchestrator.jepa.objectives.sigreg`)."""


@dataclass(frozen=True)
class FlopEstimate:
    """FLOPs of one optimizer step over all ranks, by part. Rows of weight 0 are not counted."""

    encoder_forward: float
    encoder_backward: float
    teacher_forward: float
    predictor_forward: float
    predictor_backward: float
    attention: float
    """The part of the sum that is attention (n^2)."""
    recomputed: float
    """What activation checkpointing would add; no part of the sum."""
    statistic: float = 0.0
    """SIGReg, forward and backward."""
    first_pass: float = 0.0
    """A statistic's first pass, where a rank accumulates; computed again, so no part of the sum."""

    @property
    def total(self) -> float:
        """Model FLOPs of the step, forward and backward."""
        return (
            self.encoder_forward
            + self.encoder_backward
            + self.teacher_forward
            + self.predictor_forward
            + self.predictor_backward
            + self.statistic
        )


def estimate_flops(job: TrainJob, tokens: TokenCounts) -> FlopEstimate:
    """FLOPs of a step of a job whose parts are `countable`."""
    encoder, predictor = encoder_and_predictor(job)
    clips = job.scale.global_batch
    embed = patch_embed(job)[2]
    read, told = encoder_sequence_lengths(job, tokens), predictor_sequence_lengths(job, tokens)
    student_blocks = sum(encoder.flops(n) for n in read)
    student_embed = sum(embed * n for n in read)
    projected = _projector_flops(job, 0, job.grid[0])
    whole = embed * tokens.clip + encoder.flops(tokens.clip) + projected
    teacher, taught = teacher_blocks(job), 0.0
    if teacher:
        taught = teacher_patch_embed(job)[2] * tokens.clip + teacher.flops(tokens.clip)
    predicting = _predictor_forward_flops(job, tokens)
    again = sum(encoder.recomputed(n) for n in read)
    again += sum(predictor.recomputed(n) for n in told)
    attention = 3 * sum(encoder.attention(n) for n in read)
    attention += 3 * sum(predictor.attention(n) for n in told)
    attention += teacher.attention(tokens.clip) if teacher else 0.0
    statistic = _sigreg_flops(job, tokens)
    twice = (
        isinstance(job.objective, SIGRegObjective) and BatchSizes.from_scale(job.scale).accum > 1
    )
    return FlopEstimate(
        encoder_forward=clips * (student_embed + student_blocks + projected),
        encoder_backward=clips * (student_embed + 2 * (student_blocks + projected)),
        teacher_forward=clips * taught,
        predictor_forward=clips * predicting,
        predictor_backward=clips * (2 * predicting - _flops_without_input_gradient(job)),
        attention=clips * attention,
        recomputed=clips * again,
        statistic=clips * statistic,
        first_pass=clips * whole if twice else 0.0,
    )


def encoder_sequence_lengths(job: TrainJob, tokens: TokenCounts) -> list[int]:
    """Lengths of the sequences that the student's encoder reads of a clip, with a graph."""
    whole = isinstance(job.objective, LeJEPA | Supervised | CausalPrediction | LeWM)
    return [n_c for n_c, _ in tokens.masks] + ([tokens.clip] if whole else [])


def predictor_sequence_lengths(job: TrainJob, tokens: TokenCounts) -> list[int]:
    """Lengths of the sequences that the predictor reads of a clip."""
    if isinstance(job.objective, LeWM):
        return [job.grid[0] - ahead for ahead in range(1, job.objective.rollout + 1)]
    if isinstance(job.objective, VJEPA2AC):
        return [frames * _ac_tokens_per_frame(job) for frames in _ac_rollout_lengths(job)]
    whole = isinstance(job.objective, CausalPrediction | LatentDynamics)
    return [n_c + n_t for n_c, n_t in tokens.masks] + ([tokens.clip] if whole else [])


def _predictor_forward_flops(job: TrainJob, tokens: TokenCounts) -> float:
    """Forward FLOPs of a clip behind the encoder: its predictor's, or a supervised head's."""
    encoder, predictor = encoder_and_predictor(job)
    if isinstance(job.objective, Supervised):
        return 2.0 * encoder.dim * len(job.objective.classes)
    if isinstance(job.objective, LatentDynamics):
        return predictor.flops(tokens.clip)
    into = sum(2.0 * wide * narrow for wide, narrow in predictor_in_proj(job))
    told = sum(2.0 * wide * narrow for wide, narrow in action_in_proj(job) + action_mlp_out(job))
    if isinstance(job.objective, LeWM):
        reads = predictor_sequence_lengths(job, tokens)
        blocks = sum(predictor.flops(moments) for moments in reads)
        done = sum(2.0 * wide * narrow for wide, narrow in inverse_dynamics_head(job)) * (
            job.grid[0] - 1
        )
        done += sum(2.0 * wide * narrow for wide, narrow in state_head(job)) * job.grid[0]
        return blocks + (into + told) * sum(reads) + _projector_flops(job, 1, sum(reads)) + done
    out = 2.0 * predictor.dim * prediction_dim(job) * num_horizons(job)
    if isinstance(job.objective, CausalPrediction):
        return predictor.flops(tokens.clip) + (into + out) * tokens.clip
    if isinstance(job.objective, VJEPA2AC):
        frames, area = sum(_ac_rollout_lengths(job)), job.grid[1] * job.grid[2]
        blocks = sum(predictor.flops(n) for n in predictor_sequence_lengths(job, tokens))
        return blocks + frames * ((into + out) * area + told)
    asked = sum(num_predicted_tokens(job, tokens))
    return out * asked + sum(predictor.flops(n_c + n_t) + into * n_c for n_c, n_t in tokens.masks)


def _flops_without_input_gradient(job: TrainJob) -> float:
    """Of the predictor's forward: the maps whose input needs no gradient, since the data or a
    frozen teacher said it."""
    predictor = encoder_and_predictor(job)[1]
    if isinstance(predictor, RecurrentPredictorCost):
        return 2.0 * predictor.in_proj_weights * job.grid[0] * job.grid[1] * job.grid[2]
    told = sum(2.0 * wide * narrow for wide, narrow in action_in_proj(job))
    if isinstance(job.objective, VJEPA2AC):
        into = sum(2.0 * wide * narrow for wide, narrow in predictor_in_proj(job))
        forced = (job.grid[0] - 1) * job.grid[1] * job.grid[2]
        return told * sum(_ac_rollout_lengths(job)) + into * forced
    if isinstance(job.objective, LeWM):
        return told * sum(job.grid[0] - ahead for ahead in range(1, job.objective.rollout + 1))
    return 0.0


def _ac_rollout_lengths(job: TrainJob) -> list[int]:
    """Frames of each sequence that V-JEPA 2-AC's predictor reads: all, then the rollout's."""
    assert isinstance(job.objective, VJEPA2AC)
    return [job.grid[0] - 1, *range(2, job.objective.rollout + 1)]


def _ac_tokens_per_frame(job: TrainJob) -> int:
    """Tokens of a frame in that sequence: what is told, and its patches."""
    return len(action_in_proj(job)) + job.grid[1] * job.grid[2]


def _projector_flops(job: TrainJob, which: int, moments: int) -> float:
    """Forward FLOPs of a LeWorldModel's projection behind the encoder (0) or the predictor (1)."""
    sizes = projector_tensor_sizes(job)
    return 2.0 * moments * (sizes[which][0] + sizes[which][4]) if sizes else 0.0


def _sigreg_flops(job: TrainJob, tokens: TokenCounts) -> float:
    """FLOPs of a clip in SIGReg: projected on the slices, there and back, and its share of every
    set's mean of cos and sin at every knot."""
    if not isinstance(job.objective, SIGRegObjective):
        return 0.0
    sets, projected = sigreg_size(job, tokens)
    return projected * (4.0 * embedding_dim(job) + 2 * 2 * SIGREG_KNOTS * sets)


def sigreg_size(job: TrainJob, tokens: TokenCounts) -> tuple[int, int]:
    """Sets of clips that SIGReg's statistic acts on, and projections of one clip."""
    assert isinstance(job.objective, SIGRegObjective)
    whole = job.scale.global_batch
    sets = whole // (job.objective.statistic_clips or whole)
    positions = job.grid[0] if isinstance(job.objective, LeWM) else tokens.clip
    return sets, positions * job.objective.slices
