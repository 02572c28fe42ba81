"""What a forward keeps for its backward pass: an estimate from the shapes of the blocks."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.estimate.flops import (
    SIGREG_KNOTS,
    encoder_sequence_lengths,
    predictor_sequence_lengths,
    sigreg_size,
)
from orchestrator.estimate.model_shape import (
    TokenCounts,
    encoder_and_predictor,
    num_feature_layers,
    num_horizons,
    num_predicted_tokens,
    pixels_per_token,
    prediction_dim,
    projector_tensor_sizes,
    teacher_blocks,
)
from orchestrator.job import VJEPA2AC, SIGRegObjective, TrainJob


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes per clip, all masks together."""

    after_forward: float
    """When the forward has ended."""

    after_last_mask_backward: float
    """When the backward pass of the last mask is done, and others are to come. A model that is
    read once has no such moment: `whole`."""


def activations(job: TrainJob, tokens: TokenCounts, b: int) -> ActivationBytes:
    """What one clip keeps in a compute dtype of `b` bytes.

    A block of width d and MLP width h keeps 10 d + 2 h values a token: its input, both norms'
    outputs, qkv, the rotated q and k, attention's output, the stream after it, and the MLP's
    two; a second attention keeps 8 d more, an adaptive block 12 d: six turns, the condition and
    what is turned. With activation checkpointing it keeps its input, and
    one block at a time is whole.
    """
    encoder, predictor = encoder_and_predictor(job)
    read, told = encoder_sequence_lengths(job, tokens), predictor_sequence_lengths(job, tokens)
    kept = sum(_encoder_bytes(job, n, b) for n in read) + sum(
        _predictor_bytes(job, n, b) for n in told
    )
    # Predictions, their targets and the difference, in fp32.
    asked = sum(num_predicted_tokens(job, tokens)) or sum(told)
    kept += 3 * 4 * asked * num_horizons(job) * prediction_dim(job)
    if num_feature_layers(job) > 1:
        # The levels side by side, and what lies between the two maps that read them.
        kept += (
            sum(n_c for n_c, _ in tokens.masks) * (num_feature_layers(job) + 2) * encoder.dim * b
        )
    if isinstance(job.objective, SIGRegObjective):
        # The projections, their slope, and a knot's cosines, sines and distances.
        kept += 7 * 4 * sigreg_size(job, tokens)[1]
    for sizes in projector_tensor_sizes(job):
        # Of a moment: what goes in, the norm's input and output, the GELU's.
        kept += b * job.grid[0] * (sizes[0] / sizes[1] + 3 * sizes[1])
    one_block = 0.0
    if job.scale.activation_checkpointing:
        blocks = [encoder.block_activations(n) for n in read] + [
            predictor.block_activations(n) for n in told
        ]
        one_block = b * max(blocks)
    video = 3.0 * job.data.frames * job.data.size**2 * (1 + b)
    if isinstance(job.objective, VJEPA2AC):  # every frame as long as a tubelet
        video += 3.0 * job.data.frames * job.model.tubelet * job.data.size**2 * b
    targets = 4.0 * tokens.clip * prediction_dim(job)
    # The teacher keeps nothing, but a block of it is whole for a moment before the student runs.
    taught = teacher_blocks(job)
    teacher = taught.block_activations(tokens.clip) * b if taught else 0.0
    whole = video + targets + max(kept + one_block, teacher)
    if len(read) < 2:
        return ActivationBytes(whole, whole)
    done = _encoder_bytes(job, read[-1], b)
    if tokens.masks:
        n_c, n_t = tokens.masks[-1]
        done = _encoder_bytes(job, n_c, b) + _predictor_bytes(job, n_c + n_t, b)
    return ActivationBytes(whole, video + targets + kept + one_block - done)


def sigreg_means_bytes(job: TrainJob, tokens: TokenCounts) -> float:
    """Bytes of SIGReg's means of cos and sin at every knot, of every set and projection."""
    if not isinstance(job.objective, SIGRegObjective):
        return 0.0
    sets, projected = sigreg_size(job, tokens)
    return 4.0 * 2 * SIGREG_KNOTS * sets * projected


def _encoder_bytes(job: TrainJob, n: int, b: int) -> float:
    """A sequence of `n` tokens: its pixels and the blocks."""
    kept = encoder_and_predictor(job)[0].saved_activations(n, job.scale.activation_checkpointing)
    return (n * pixels_per_token(job) + kept) * b


def _predictor_bytes(job: TrainJob, n: int, b: int) -> float:
    return (
        encoder_and_predictor(job)[1].saved_activations(n, job.scale.activation_checkpointing) * b
    )
