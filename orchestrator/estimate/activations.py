"""What a forward keeps for its backward pass: an estimate from the shapes of the blocks."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.estimate.flops import SIGREG_KNOTS
from orchestrator.estimate.objective_cost import ObjectiveCost, objective_cost
from orchestrator.job import TrainJob


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes per clip, all masks together."""

    after_forward: float
    """When the forward has ended."""

    after_last_mask_backward: float
    """When the backward pass of the last mask is done, and others are to come. A model that is
    read once has no such moment: `whole`."""


def activations(job: TrainJob, b: int) -> ActivationBytes:
    """What one clip keeps in a compute dtype of `b` bytes.

    A block of width d and MLP width h keeps 10 d + 2 h values a token: its input, both norms'
    outputs, qkv, the rotated q and k, attention's output, the stream after it, and the MLP's
    two; a second attention keeps 8 d more, an adaptive block 12 d: six turns, the condition and
    what is turned. With activation checkpointing it keeps its input, and
    one block at a time is whole.
    """
    cost = objective_cost(job)
    encoder, predictor, teacher = cost.encoder, cost.predictor, cost.teacher
    read, predicted = cost.encoder_lengths, cost.predictor_lengths
    kept = sum(_encoder_bytes(cost, n, b) for n in read)
    kept += sum(_predictor_bytes(cost, n, b) for n in predicted)
    # Predictions, their targets and the difference, in fp32.
    queries = sum(cost.predicted_tokens) or sum(predicted)
    kept += 3 * 4 * queries * cost.num_horizons * cost.prediction_dim
    # The projections, their slope, and a knot's cosines, sines and distances.
    kept += 7 * 4 * cost.sigreg_projections
    kept += cost.extra_activations(b)
    one_block = 0.0
    if job.scale.activation_checkpointing:
        blocks = [encoder.block_activations(n) for n in read]
        blocks += [predictor.block_activations(n) for n in predicted]
        one_block = b * max(blocks)
    video = 3.0 * job.data.frames * job.data.size**2 * (1 + b) + cost.extra_video_values() * b
    targets = 4.0 * cost.tokens.clip * cost.prediction_dim
    # The teacher keeps nothing, but a block of it is whole for a moment before the student runs.
    teacher_block = teacher.block_activations(cost.tokens.clip) * b if teacher else 0.0
    peak = video + targets + max(kept + one_block, teacher_block)
    if len(read) < 2:
        return ActivationBytes(peak, peak)
    done = _encoder_bytes(cost, read[-1], b)
    if cost.tokens.masks:
        context, target = cost.tokens.masks[-1]
        done = _encoder_bytes(cost, context, b) + _predictor_bytes(cost, context + target, b)
    return ActivationBytes(peak, video + targets + kept + one_block - done)


def sigreg_means_bytes(job: TrainJob) -> float:
    """Bytes of SIGReg's means of cos and sin at every knot, of every set and projection."""
    cost = objective_cost(job)
    if not cost.sigreg_projections:
        return 0.0
    return 4.0 * 2 * SIGREG_KNOTS * cost.sigreg_sets * cost.sigreg_projections


def _encoder_bytes(cost: ObjectiveCost, n: int, b: int) -> float:
    """A sequence of `n` tokens: its pixels and the blocks."""
    kept = cost.encoder.saved_activations(n, cost.job.scale.activation_checkpointing)
    return (n * cost.pixels_per_token + kept) * b


def _predictor_bytes(cost: ObjectiveCost, n: int, b: int) -> float:
    return cost.predictor.saved_activations(n, cost.job.scale.activation_checkpointing) * b
