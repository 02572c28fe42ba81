"""Objectives that are told what is done: the same at every world size, ZeRO stage and accumulation.

The reference is one plain forward over the clips that count. What a failed clip says of its actions
is NaN throughout.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from orchestrator.data.loader.batch import Batch
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives import (
    ClipSets,
    Objective,
    build_objective,
    randomly_initialized_teacher,
)
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from orchestrator.randomness import generator
from tests.support.objectives import global_batch, rank_micro_batches_with_keys
from tests.support.ranks import assert_ranks_match, run_ranks, tiny_job

pytestmark = pytest.mark.integration

STEPS = 2
STATISTICS = {
    "action_mean": [1.0, -1.0],
    "action_std": [2.0, 0.5],
    "state_mean": [0.0, 1.0, 0.0, 2.0],
    "state_std": [1.0, 1.0, 0.5, 1.0],
}
TEACHER = {"dim": 12, "depth": 1, "heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "lewm": {
        "objective": {"kind": "lewm", "slices": 8, "weight": 0.3, "hidden": 24, "rollout": 2},
        "actions": "given",
        "model": {"tubelet": 1},
    },
    "vjepa2ac": {
        "objective": {"kind": "vjepa2ac", "teacher": "t", "encoder": TEACHER},
        "actions": "change",
        "model": {"encoder": TEACHER},
    },
}
# Of 8 clips: 4, 2 and 1 micro-batches on one rank; on four a rank has one.
CASES: list[dict[str, Any]] = [
    *({"zero": stage, "micro_batch": 2} for stage in (0, 1, 2, 3)),
    {"zero": 3, "micro_batch": 4},
    {"zero": 1, "micro_batch": 8},
]


def acting_job(kind: str, **scale: Any) -> TrainJob:
    asked = KINDS[kind]
    data = job_dict(tiny_job(scale=scale)) | {"objective": asked["objective"]}
    data["data"] |= {
        "act": {"actions": asked["actions"], "block": 2, "statistics": STATISTICS},
        "augment": {},
    }
    data["model"] |= asked["model"]
    if kind == "lewm":
        data["model"]["encoder"] |= {"attention": "moment"}
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


def parts_of(job: TrainJob) -> tuple[Objective, torch.nn.Module | None]:
    """The objective, its gates as training leaves them, and a teacher: the same on every rank."""
    objective = build_objective(job)
    torch.manual_seed(7)
    for name, parameter in objective.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return objective, randomly_initialized_teacher(job)


def acted(step: int) -> Batch:
    """The global batch of a step, told what was done; a clip that failed says NaN."""
    batch, draw = global_batch(step), torch.Generator().manual_seed(step)
    motion = [torch.randn(8, frames, 4, generator=draw) + 1 for frames in (3, 4)]
    for part in motion:
        part[batch.weight == 0] = torch.nan
    return replace(batch, actions=ActionBatch(*motion))


def train_acting(rank: int, world: int, kinds: list[str]) -> list[Any]:
    """Losses, and the first gradient from Adam's first moment, of every kind and case."""
    from orchestrator.training.engine.engine import Engine

    found = []
    for kind in kinds:
        for case in CASES:
            job = acting_job(kind, **case)
            objective, teacher = parts_of(job)
            batch = BatchSizes.from_scale(job.scale, world)
            engine = Engine(objective, job, batch, torch.device("cpu"), teacher)
            losses, first = [], []
            for step in range(STEPS):
                result = engine.train_step(rank_micro_batches_with_keys(acted(step), batch, rank))
                assert result.applied
                losses.append(result.loss)
                first = first or engine.take_snapshot().slices
            found.append((losses, first))
    return found


@functools.cache
def trained(world: int) -> list[list[Any]]:
    return run_ranks(world, train_acting, list(KINDS))


def reference(kind: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of the first step: one forward over the clips that count."""
    job, batch = acting_job(kind), acted(0)
    objective, teacher = parts_of(job)
    counted = batch.weight > 0
    assert 0 < int(counted.sum()) < len(counted)
    video = normalise(batch.video[counted], torch.float32)
    assert batch.actions is not None
    motion = ActionBatch(*(part[counted] for part in batch.actions))
    if teacher is None:
        targets: Any = ClipSets.single_set(video)
        targets.seed = int(generator(job.seed, 0, "slices").integers(2**63))
    else:
        targets = objective.targets(teacher, video)
    loss = objective(video, [], targets, motion).loss.mean()
    loss.backward()
    gradient = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    assert len(gradient) == len(list(objective.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    return float(loss.detach()), {n: min(1.0, 1.0 / norm) * g for n, g in gradient.items()}


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_size_and_stage_trains_the_same(kind: str, world: int) -> None:
    loss, gradient = reference(kind)
    begin = list(KINDS).index(kind) * len(CASES)
    first = trained(1)[0][begin][0]
    for index, case in enumerate(CASES, start=begin):
        ranks = [rank[index] for rank in trained(world)]
        assert_ranks_match(ranks, first, loss, gradient, case)
