"""Objectives on clips of other shapes than data's own: as if they had been built for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.jepa.objectives import FrozenObjective, build_objective
from orchestrator.jepa.objectives.frozen.objective import build_teacher
from orchestrator.job import FrozenTeacher, TrainJob, build_job
from orchestrator.randomness import generator

MASKS = [{"targets": 0.5, "context": 0.25}, {"targets": 0.4, "context": 0.3, "spatial": 0.4}]
TINY = {"dim": 24, "depth": 2, "heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "vjepa2": {"masks": MASKS},
    "vjepa21": {"masks": MASKS, "context_ramp": [0, 0]},
    "lejepa": {"masks": MASKS, "slices": 8},
    "pixels": {"masks": MASKS},
    "frozen": {"masks": MASKS, "teacher": "somewhere", "encoder": {**TINY, "dim": 36}},
    "supervised": {"classes": ["a", "b"]},
}


def job_of(kind: str) -> TrainJob:
    sources = [
        {"uri": "videos", "weight": 2},
        {"uri": "sharp", "weight": 1, "frames": 6, "size": 48},
        {"uri": "photos", "weight": 1, "frames": 2},
    ]
    job = build_job(
        {
            "kind": "train",
            "name": "mixed",
            "seed": 3,
            "data": {"frames": 4, "size": 32, "sources": sources},
            "model": {
                "encoder": TINY,
                "patch": 8,
                "predictor": {**TINY, "dim": 12},
                "levels": [1, 2] if kind == "vjepa21" else [],
            },
            "objective": {"kind": kind, **KINDS[kind]},
            "optim": {"steps": 10},
            "scale": {"global_batch": 4, "micro_batch": 4},
        }
    )
    assert isinstance(job, TrainJob)
    return job


def loss_of(job: TrainJob, shown: TrainJob) -> torch.Tensor:
    """The clips' losses under a job's objective, of clips and masks of another job's shape."""
    objective = build_objective(job)
    draw = torch.Generator().manual_seed(1)
    size, frames = shown.data.size, shown.data.frames
    video = torch.randn(3, 3, frames, size, size, generator=draw)
    drawn = [
        [mask(generator(5, row, "masks")) for row in range(3)]
        for mask in build_mask_samplers(shown)
    ]
    masks = [
        (
            torch.stack([torch.from_numpy(context) for context, _ in rows]),
            torch.stack([torch.from_numpy(target) for _, target in rows]),
        )
        for rows in drawn
    ]
    targets: Any = None
    if isinstance(objective, FrozenObjective):
        assert isinstance(job.objective, FrozenTeacher)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            teacher = build_teacher(job.objective, job)
        targets = objective.targets(teacher, video)
    elif objective.averaged:
        targets = objective.targets(objective.encoder, video)
    elif job.objective.kind == "supervised":
        targets = torch.tensor([0, 1, 0])
    loss: torch.Tensor = objective(video, masks, targets).loss
    return loss


@pytest.mark.parametrize("kind", KINDS)
def test_another_shape_costs_what_it_costs_alone(kind: str) -> None:
    job = job_of(kind)
    for spec in job.data.clip_specs:
        alone = job.with_clip_spec(spec)
        found = loss_of(job, alone)
        assert found.isfinite().all()
        torch.testing.assert_close(found, loss_of(alone, alone), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["vjepa2", "vjepa21", "lejepa"])
def test_positions_of_another_grid_would_be_seen(kind: str) -> None:
    """The comparison above can fail: under the grid of data's own clips the loss is another."""
    job = job_of(kind)
    sharp = job.with_clip_spec(job.data.clip_specs[1])
    wide = job.with_clip_spec(job.data.clip_specs[1]._replace(size=64))
    objective, other = build_objective(sharp), build_objective(wide)
    assert objective.state_dict().keys() == other.state_dict().keys()
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(1, 4, 24 * (2 if kind == "vjepa21" else 1), generator=draw)
    ids = torch.tensor([[3, 9, 20, 40]]), torch.tensor([[50, 60]])
    one = objective.predictor(z, *ids)  # type: ignore[operator]
    two = other.predictor(z, *ids, 0, (3, 6, 6))  # type: ignore[operator]
    three = other.predictor(z, *ids)  # type: ignore[operator]
    first = [x[0] if isinstance(x, tuple) else x for x in (one, two, three)]
    assert torch.equal(first[0], first[1])
    assert not torch.allclose(first[0], first[2], atol=1e-4)
