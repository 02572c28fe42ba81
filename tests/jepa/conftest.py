from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.job import TrainJob, build_job
from orchestrator.randomness import generator

TINY_JOB: dict[str, Any] = {
    "kind": "train",
    "name": "tiny",
    "data": {"source": "nowhere", "frames": 8, "size": 32},
    "model": {
        "encoder": {"kind": "vit", "dim": 48, "depth": 2, "heads": 2},
        "patch": 8,
        "tubelet": 2,
        "predictor": {"depth": 2, "dim": 24, "heads": 2},
    },
    "objective": {"kind": "vjepa2", "ema": 0.99},
    "optim": {"steps": 1},
}

MakeJob = Callable[..., TrainJob]


@pytest.fixture
def make_job() -> MakeJob:
    """A tiny train job, with overrides as a user gives them."""

    def make(*overrides: str) -> TrainJob:
        job = build_job(copy.deepcopy(TINY_JOB), overrides)
        assert isinstance(job, TrainJob)
        return job

    return make


def draw_masks(job: TrainJob, clips: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A batch's masks, as the feed makes them."""
    batch = []
    for part, sampler in enumerate(build_mask_samplers(job)):
        pairs = [sampler(generator(job.seed, i, "masks", part)) for i in range(clips)]
        context, target = (torch.from_numpy(np.stack(ids)) for ids in zip(*pairs, strict=True))
        batch.append((context, target))
    return batch


@pytest.fixture
def masks_of() -> Callable[[TrainJob, int], list[tuple[torch.Tensor, torch.Tensor]]]:
    return draw_masks


@pytest.fixture
def video() -> torch.Tensor:
    """Two smooth clips, uint8 [2, 8, 32, 32, 3]."""
    rng = torch.Generator().manual_seed(5)
    coarse = torch.rand(2, 3, 4, 4, 4, generator=rng)
    fine = torch.nn.functional.interpolate(coarse, (8, 32, 32), mode="trilinear")
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
