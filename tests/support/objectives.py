"""Jobs and batches for the objectives that have no teacher, as the ranks of a test train them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from orchestrator.data.loader.batch import Batch
from orchestrator.job import TrainJob, build_job, job_dict
from tests.support.ranks import make_engine, random_batch, rank_micro_batches, tiny_job

CLASSES = ["drop", "ramp"]
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lejepa": {"kind": "lejepa", "slices": 8, "weight": 0.3},
    "lewm": {"kind": "lewm", "slices": 8, "weight": 0.3, "hidden": 24},
    # With a convolutional encoder.
    "conv": {"kind": "lewm", "slices": 8, "weight": 0.3, "hidden": 24, "pool": "places"},
    "pixels": {"kind": "pixels"},
    "supervised": {"kind": "supervised", "classes": CLASSES},
}


def objective_job(objective: dict[str, Any], **scale: Any) -> TrainJob:
    data = job_dict(tiny_job(scale=scale)) | {"objective": objective}
    if objective.get("pool") == "places":
        data["model"]["encoder"] = {"kind": "conv", "dim": 16, "width": 8}
    elif objective["kind"] == "lewm":
        data["model"]["encoder"] |= {"attention": "moment"}
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


def global_batch(step: int) -> Batch:
    """The global batch of a step, with the positions and keys that the feed gives."""
    batch = random_batch(step)
    rows = len(batch.weight)
    keys = [f"{CLASSES[i % 2]}-0-{step * rows + i:08d}" for i in range(rows)]
    position = np.arange(step * rows, (step + 1) * rows)
    return Batch(batch.video, batch.weight, position, batch.masks, keys, keys, [])


def rank_micro_batches_with_keys(batch: Batch, plan: Any, rank: int) -> list[Batch]:
    """A rank's micro-batches, which keep positions and keys; padding has -1 and ''."""
    parts = rank_micro_batches(batch, plan, rank)
    for i, part in enumerate(parts):
        first = (rank * plan.accum + i) * plan.micro
        known = batch.position[first : first + plan.micro]
        part.position[: len(known)] = known
        part.keys = (batch.keys[first : first + plan.micro] + [""] * plan.micro)[: plan.micro]
    return parts


def train_objective(
    rank: int, world_size: int, objective: dict[str, Any], steps: int, **scale: Any
) -> Any:
    """Losses, the first gradient (from Adam's first moment) and the last weights of a rank."""
    engine = make_engine(objective_job(objective, **scale), world_size)
    losses, first = [], []
    for step in range(steps):
        result = engine.train_step(
            rank_micro_batches_with_keys(global_batch(step), engine.batch_plan, rank)
        )
        assert result.applied
        losses.append(result.loss)
        if step == 0:
            first = engine.take_snapshot().slices
    return {"losses": losses, "first": first, "last": engine.take_snapshot().slices}


def single_process_loss(objective: Any, batch: Batch, targets: Any) -> torch.Tensor:
    """The weighted loss of the whole batch in one forward."""
    from orchestrator.jepa.pixel_normalization import normalise

    clips = objective(normalise(batch.video, torch.float32), batch.masks, targets).loss
    return (clips * batch.weight).sum() / batch.weight.sum()
