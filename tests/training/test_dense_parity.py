"""V-JEPA 2.1, its ramp and its teacher: the same at every world size, stage and accumulation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from tests.support.objectives import global_batch, rank_micro_batches_with_keys
from tests.support.ranks import make_engine, run_ranks, tiny_job

pytestmark = pytest.mark.integration

STEPS = 3


def dense_job(**scale: Any) -> TrainJob:
    data = job_dict(tiny_job(scale=scale))
    depth = data["model"]["encoder"]["depth"]
    data["model"] |= {"levels": list(range(1, depth + 1)), "rope": "paired"}
    data["objective"] = {"kind": "vjepa21", "ema": 0.9, "context_ramp": [0, 2]}
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


def train_stages(rank: int, world: int, stages: tuple[int, ...]) -> list[list[float]]:
    out = []
    for stage in stages:
        job = dense_job(zero=stage, micro_batch=2, activation_checkpointing=stage == 3)
        engine = make_engine(job, world)
        dealt = [
            rank_micro_batches_with_keys(global_batch(step), engine.batch_plan, rank)
            for step in range(STEPS)
        ]
        out.append([engine.train_step(micro).loss for micro in dealt])
    return out


def test_it_trains_the_same_at_every_size_and_stage() -> None:
    objective, batch = build_objective(dense_job()), global_batch(0)
    video = normalise(batch.video, torch.float32)
    targets = objective.targets(objective.encoder, video)
    clips = objective(video, batch.masks, targets).loss.detach()
    first = float((clips * batch.weight).sum() / batch.weight.sum())
    one = run_ranks(1, train_stages, (0,))[0][0]
    assert one[0] == pytest.approx(first, rel=1e-5)
    # The ramp is over at the third step, so that the context counts in full.
    assert one[2] > one[0]
    for losses in run_ranks(2, train_stages, (0, 1, 2, 3))[0]:
        assert losses == pytest.approx(one, rel=2e-5)
