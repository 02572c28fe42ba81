"""What a forward keeps for its backward pass: an estimate from the shapes of the blocks."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.estimate.flops import KNOTS, encoder_reads, predictor_reads, statistic_size
from orchestrator.estimate.model_shape import (
    TokenPlan,
    asked_tokens,
    horizons,
    levels,
    pixels_per_token,
    predicted_width,
    projection_sizes,
    stacks,
    teaching,
)
from orchestrator.job import VJEPA2AC, Gaussian, TrainJob


@dataclass(frozen=True)
class Activations:
    """Bytes per clip, all masks together."""

    whole: float
    """When the forward has ended."""

    left: float
    """When the backward pass of the last mask is done, and others are to come. A model that is
    read once has no such moment: `whole`."""


def activations(job: TrainJob, tokens: TokenPlan, b: int) -> Activations:
    """What one clip keeps in a compute dtype of `b` bytes.

    A block of width d and MLP width h keeps 10 d + 2 h values a token: its input, both norms'
    outputs, qkv, the rotated q and k, attention's output, the stream after it, and the MLP's
    two; a second attention keeps 8 d more, an adaptive block 12 d: six turns, the condition and
    what is turned. With activation checkpointing it keeps its input, and
    one block at a time is whole.
    """
    encoder, predictor = stacks(job)
    read, told = encoder_reads(job, tokens), predictor_reads(job, tokens)
    kept = sum(_of_encoder(job, n, b) for n in read) + sum(_of_predictor(job, n, b) for n in told)
    # Predictions, their targets and the difference, in fp32.
    asked = sum(asked_tokens(job, tokens)) or sum(told)
    kept += 3 * 4 * asked * horizons(job) * predicted_width(job)
    if levels(job) > 1:
        # The levels side by side, and what lies between the two maps that read them.
        kept += sum(n_c for n_c, _ in tokens.masks) * (levels(job) + 2) * encoder.dim * b
    if isinstance(job.objective, Gaussian):
        # The projections, their slope, and a knot's cosines, sines and distances.
        kept += 7 * 4 * statistic_size(job, tokens)[1]
    for sizes in projection_sizes(job):
        # Of a moment: what goes in, the norm's input and output, the GELU's.
        kept += b * job.grid[0] * (sizes[0] / sizes[1] + 3 * sizes[1])
    one_block = 0.0
    if job.scale.activation_checkpointing:
        blocks = [encoder.block(n) for n in read] + [predictor.block(n) for n in told]
        one_block = b * max(blocks)
    video = 3.0 * job.data.frames * job.data.size**2 * (1 + b)
    if isinstance(job.objective, VJEPA2AC):  # every frame as long as a tubelet
        video += 3.0 * job.data.frames * job.model.tubelet * job.data.size**2 * b
    targets = 4.0 * tokens.clip * predicted_width(job)
    # The teacher keeps nothing, but a block of it is whole for a moment before the student runs.
    taught = teaching(job)
    teacher = taught.block(tokens.clip) * b if taught else 0.0
    whole = video + targets + max(kept + one_block, teacher)
    if len(read) < 2:
        return Activations(whole, whole)
    done = _of_encoder(job, read[-1], b)
    if tokens.masks:
        n_c, n_t = tokens.masks[-1]
        done = _of_encoder(job, n_c, b) + _of_predictor(job, n_c + n_t, b)
    return Activations(whole, video + targets + kept + one_block - done)


def means_bytes(job: TrainJob, tokens: TokenPlan) -> float:
    """Bytes of SIGReg's means of cos and sin at every knot, of every set and projection."""
    if not isinstance(job.objective, Gaussian):
        return 0.0
    sets, projected = statistic_size(job, tokens)
    return 4.0 * 2 * KNOTS * sets * projected


def _of_encoder(job: TrainJob, n: int, b: int) -> float:
    """A sequence of `n` tokens: its pixels and the blocks."""
    kept = stacks(job)[0].kept(n, job.scale.activation_checkpointing)
    return (n * pixels_per_token(job) + kept) * b


def _of_predictor(job: TrainJob, n: int, b: int) -> float:
    return stacks(job)[1].kept(n, job.scale.activation_checkpointing) * b
