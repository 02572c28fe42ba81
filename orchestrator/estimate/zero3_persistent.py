"""Parameters that ZeRO-3 keeps whole on every rank, because cutting them would not pay."""

from __future__ import annotations

from itertools import chain

from orchestrator.estimate.objective_cost import objective_cost
from orchestrator.job import TrainJob

# DeepSpeed's stage3_param_persistence_threshold: elements of the largest of them.
_PERSISTENCE_THRESHOLD = 100_000


def persistent_elements(job: TrainJob) -> int:
    """Elements of all trained tensors of at most `_PERSISTENCE_THRESHOLD` elements.

    Of a `countable` job.
    """
    cost = objective_cost(job)
    sizes = chain(cost.encoder_tensors(), cost.predictor_tensors())
    return sum(size for size in sizes if size <= _PERSISTENCE_THRESHOLD)
