"""Parameters that ZeRO-3 keeps whole on every rank, because cutting them would not pay."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.estimate.model_shape import (
    action_in_proj,
    action_mlp_out,
    encoder_and_predictor,
    inverse_dynamics_head,
    num_feature_layers,
    num_horizons,
    num_output_projections,
    patch_embed,
    prediction_dim,
    predictor_in_proj,
    projector_tensor_sizes,
    state_head,
)
from orchestrator.job import VJEPA2AC, LatentDynamics, MaskedPrediction, Supervised, TrainJob

# DeepSpeed's stage3_param_persistence_threshold: elements of the largest of them.
_PERSISTENCE_THRESHOLD = 100_000


def persistent_elements(job: TrainJob) -> int:
    """Elements of all trained tensors of at most `_PERSISTENCE_THRESHOLD` elements.

    Of a `countable` job.
    """
    return sum(size for size in _tensor_sizes(job) if size <= _PERSISTENCE_THRESHOLD)


def _tensor_sizes(job: TrainJob) -> Iterator[int]:
    """Of every tensor."""
    encoder, predictor = encoder_and_predictor(job)
    if isinstance(job.objective, LatentDynamics):
        yield from predictor.tensors()
        return
    if not isinstance(job.objective, VJEPA2AC):
        yield from patch_embed(job)[:2]
        yield from encoder.tensors()
    yield from [encoder.dim] * 2 * (num_feature_layers(job) - 1)
    if isinstance(job.objective, Supervised):
        classes = len(job.objective.classes)
        yield from (encoder.dim * classes, classes)
        return
    if isinstance(job.objective, MaskedPrediction):
        yield len(job.objective.masks) * predictor.dim
    acting = (
        action_in_proj(job) + action_mlp_out(job) + inverse_dynamics_head(job) + state_head(job)
    )
    for wide, narrow in predictor_in_proj(job) + acting:
        yield from (wide * narrow, narrow)
    yield from predictor.tensors()
    projections = projector_tensor_sizes(job)
    if projections:
        yield from (size for sizes in projections for size in sizes)
        return
    out = prediction_dim(job) * num_horizons(job)
    yield from [predictor.dim * out, out] * num_output_projections(job)
