"""Dynamics of codes: the same at every world size, ZeRO stage and accumulation; in bf16 near it."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

from orchestrator.estimate import BatchSizes
from orchestrator.jepa.objectives import build_objective, randomly_initialized_teacher
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from tests.support.objectives import global_batch, rank_micro_batches_with_keys
from tests.support.ranks import assert_ranks_match, run_ranks, tiny_job

pytestmark = pytest.mark.integration

STEPS = 3
# Of 8 clips: 4, 2 and 1 micro-batches on one rank.
CASES: list[dict[str, Any]] = [
    *({"zero": stage, "micro_batch": 2} for stage in (0, 1, 2, 3)),
    {"zero": 3, "micro_batch": 4},
    {"zero": 1, "micro_batch": 8},
]
BF16: list[dict[str, Any]] = [
    {"zero": stage, "micro_batch": 2, "precision": "bf16"} for stage in (0, 1)
]


def dynamics_job(**scale: Any) -> TrainJob:
    """Clips of four moments of 4 x 4 places; some are hidden."""
    data = job_dict(tiny_job(scale=scale))
    data["objective"] = {"kind": "dynamics", "masks": [{"targets": 0.3}]}
    data["model"] |= {
        "encoder": {"kind": "codes", "dim": 12},
        "tubelet": 1,
        "predictor": {"dim": 16, "depth": 2, "heads": 2},
    }
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


def parts_of(job: TrainJob) -> tuple[Any, Any]:
    """The objective, its changes as training leaves them, and codes: the same on every rank."""
    torch.manual_seed(7)
    objective, codes = build_objective(job), randomly_initialized_teacher(job)
    torch.nn.init.normal_(objective.predictor.proj.weight, std=0.1)
    for memory in objective.predictor.memories:
        torch.nn.init.normal_(memory.first, std=0.5)
    return objective, codes


def train_dynamics(rank: int, world: int) -> list[Any]:
    """Losses, and the first gradient from Adam's first moment, of every case."""
    from orchestrator.training.engine.engine import Engine

    found = []
    for case in CASES + BF16:
        job = dynamics_job(**case)
        objective, codes = parts_of(job)
        batch = BatchSizes.from_scale(job.scale, world)
        engine = Engine(objective, job, batch, torch.device("cpu"), codes)
        before = codes.patch_embed.proj.weight.clone()
        losses, first = [], []
        for step in range(STEPS):
            result = engine.train_step(
                rank_micro_batches_with_keys(global_batch(step), batch, rank)
            )
            assert result.applied
            losses.append(result.loss)
            first = first or engine.take_snapshot().slices
        assert torch.equal(before, codes.patch_embed.proj.weight), "codes stay as they are"
        found.append((losses, first))
    return found


@functools.cache
def trained(world: int) -> list[Any]:
    return run_ranks(world, train_dynamics)


def reference() -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of the first step: one forward over the clips that count."""
    job, batch = dynamics_job(), global_batch(0)
    objective, codes = parts_of(job)
    counted = batch.weight > 0
    assert 0 < int(counted.sum()) < len(counted)
    video = normalise(batch.video[counted], torch.float32)
    masks = [(context[counted], target[counted]) for context, target in batch.masks]
    loss = objective(video, masks, objective.targets(codes, video)).loss.mean()
    loss.backward()
    gradient = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    assert len(gradient) == len(list(objective.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    return float(loss.detach()), {n: min(1.0, 1.0 / norm) * g for n, g in gradient.items()}


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.nightly)])
def test_every_size_and_stage_trains_the_same(world: int) -> None:
    loss, gradient = reference()
    first = trained(1)[0][0][0]
    for index, case in enumerate(CASES):
        ranks = [rank[index] for rank in trained(world)]
        assert_ranks_match(ranks, first, loss, gradient, case)


@pytest.mark.parametrize("world", [1, 2])
def test_bf16_is_near(world: int) -> None:
    loss, _ = reference()
    for rank in trained(world):
        for losses, _ in rank[len(CASES) :]:
            assert losses[0] == pytest.approx(loss, rel=0.02)
