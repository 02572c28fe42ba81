"""Parameters that ZeRO-3 keeps whole on every rank, because cutting them would not pay."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.estimate.model_shape import (
    done_maps,
    first,
    heard_maps,
    horizons,
    levels,
    outputs,
    predicted_width,
    projection_sizes,
    reading,
    stacks,
    state_maps,
    told_maps,
)
from orchestrator.job import VJEPA2AC, Dynamics, Predictive, Supervised, TrainJob

# DeepSpeed's stage3_param_persistence_threshold: elements of the largest of them.
_LARGEST = 100_000


def persistent(job: TrainJob) -> int:
    """Elements of all trained tensors of at most `_LARGEST` elements, of a `countable` job."""
    return sum(size for size in _sizes(job) if size <= _LARGEST)


def _sizes(job: TrainJob) -> Iterator[int]:
    """Of every tensor."""
    encoder, predictor = stacks(job)
    if isinstance(job.objective, Dynamics):
        yield from predictor.tensors()
        return
    if not isinstance(job.objective, VJEPA2AC):
        yield from first(job)[:2]
        yield from encoder.tensors()
    yield from [encoder.dim] * 2 * (levels(job) - 1)
    if isinstance(job.objective, Supervised):
        classes = len(job.objective.classes)
        yield from (encoder.dim * classes, classes)
        return
    if isinstance(job.objective, Predictive):
        yield len(job.objective.masks) * predictor.dim
    acting = told_maps(job) + heard_maps(job) + done_maps(job) + state_maps(job)
    for wide, narrow in reading(job) + acting:
        yield from (wide * narrow, narrow)
    yield from predictor.tensors()
    projections = projection_sizes(job)
    if projections:
        yield from (size for sizes in projections for size in sizes)
        return
    out = predicted_width(job) * horizons(job)
    yield from [predictor.dim * out, out] * outputs(job)
