"""Jobs and batches for the objectives that have no teacher, as the ranks of a test train them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from orchestrator.data.loader.batch import Batch
from orchestrator.job import TrainJob, build_job, job_dict
from tests.support.ranks import dealt, made_batch, make_engine, tiny_job

CLASSES = ["drop", "ramp"]
KINDS: dict[str, dict[str, Any]] = {
    "lejepa": {"kind": "lejepa", "slices": 8, "weight": 0.3},
    "lewm": {"kind": "lewm", "slices": 8, "weight": 0.3, "hidden": 24},
    # With a convolutional encoder.
    "conv": {"kind": "lewm", "slices": 8, "weight": 0.3, "hidden": 24, "pool": "places"},
    "pixels": {"kind": "pixels"},
    "supervised": {"kind": "supervised", "classes": CLASSES},
}


def job_of(objective: dict[str, Any], **scale: Any) -> TrainJob:
    data = job_dict(tiny_job(scale=scale)) | {"objective": objective}
    if objective.get("pool") == "places":
        data["model"]["encoder"] = {"kind": "conv", "dim": 16, "width": 8}
    elif objective["kind"] == "lewm":
        data["model"]["encoder"] |= {"attention": "moment"}
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


def batch_of(step: int) -> Batch:
    """The global batch of a step, with the positions and keys that the feed gives."""
    batch = made_batch(step)
    rows = len(batch.weight)
    keys = [f"{CLASSES[i % 2]}-0-{step * rows + i:08d}" for i in range(rows)]
    position = np.arange(step * rows, (step + 1) * rows)
    return Batch(batch.video, batch.weight, position, batch.masks, keys, keys, [])


def dealt_rows(batch: Batch, plan: Any, rank: int) -> list[Batch]:
    """A rank's micro-batches, which keep positions and keys; padding has -1 and ''."""
    parts = dealt(batch, plan, rank)
    for i, part in enumerate(parts):
        first = (rank * plan.accum + i) * plan.micro
        known = batch.position[first : first + plan.micro]
        part.position[: len(known)] = known
        part.keys = (batch.keys[first : first + plan.micro] + [""] * plan.micro)[: plan.micro]
    return parts


def train_kind(rank: int, world: int, objective: dict[str, Any], steps: int, **scale: Any) -> Any:
    """Losses, the first gradient (from Adam's first moment) and the last weights of a rank."""
    engine = make_engine(job_of(objective, **scale), world)
    losses, first = [], []
    for step in range(steps):
        result = engine.train_step(dealt_rows(batch_of(step), engine.batch, rank))
        assert result.applied
        losses.append(result.loss)
        if step == 0:
            first = engine.snapshot().slices
    return {"losses": losses, "first": first, "last": engine.snapshot().slices}


def plain_step(objective: Any, batch: Batch, targets: Any) -> torch.Tensor:
    """The weighted loss of the whole batch in one forward."""
    from orchestrator.jepa.pixel_normalization import normalise

    clips = objective(normalise(batch.video, torch.float32), batch.masks, targets).loss
    return (clips * batch.weight).sum() / batch.weight.sum()
