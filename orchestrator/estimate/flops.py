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
from orchestrator.estimate.objective_cost import ObjectiveCost, objective_cost
from orchestrator.job import TrainJob

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
    """Of a statistic over sets of clips (SIGReg), forward and backward."""
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


def estimate_flops(job: TrainJob) -> FlopEstimate:
    """FLOPs of a step of a job whose parts are `countable`."""
    cost = objective_cost(job)
    encoder, predictor, teacher = cost.encoder, cost.predictor, cost.teacher
    clips, clip, embed = job.scale.global_batch, cost.tokens.clip, cost.patch_embed[2]
    read, predicted = cost.encoder_lengths, cost.predictor_lengths
    student_blocks = sum(encoder.flops(n) for n in read)
    student_embed = sum(embed * n for n in read)
    projected = cost.encoder_projection_flops()
    teacher_flops = 0.0
    if teacher:
        teacher_flops = cost.teacher_patch_embed[2] * clip + teacher.flops(clip)
    predicting = cost.predictor_flops()
    again = sum(encoder.recomputed(n) for n in read)
    again += sum(predictor.recomputed(n) for n in predicted)
    attention = 3 * sum(encoder.attention(n) for n in read)
    attention += 3 * sum(predictor.attention(n) for n in predicted)
    attention += teacher.attention(clip) if teacher else 0.0
    statistic = _sigreg_flops(cost) + cost.extra_statistic_flops()
    twice = statistic and BatchSizes.from_scale(job.scale).accum > 1
    return FlopEstimate(
        encoder_forward=clips * (student_embed + student_blocks + projected),
        encoder_backward=clips * (student_embed + 2 * (student_blocks + projected)),
        teacher_forward=clips * teacher_flops,
        predictor_forward=clips * predicting,
        predictor_backward=clips * (2 * predicting - cost.flops_without_input_gradient()),
        attention=clips * attention,
        recomputed=clips * again,
        statistic=clips * statistic,
        first_pass=clips * (embed * clip + encoder.flops(clip) + projected) if twice else 0.0,
    )


def _sigreg_flops(cost: ObjectiveCost) -> float:
    """FLOPs of a clip in SIGReg: projected on the slices, there and back, and its share of every
    set's mean of cos and sin at every knot."""
    if not cost.sigreg_projections:
        return 0.0
    return cost.sigreg_projections * (
        4.0 * cost.embedding_dim + 2 * 2 * SIGREG_KNOTS * cost.sigreg_sets
    )
