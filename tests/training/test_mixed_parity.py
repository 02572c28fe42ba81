"""Steps of several shapes train the same on one rank and on two, with padding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.data.loader.batch import Batch
from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from orchestrator.randomness import generator
from tests.support.objectives import rank_micro_batches_with_keys, single_process_loss
from tests.support.ranks import gather_slices, make_engine, run_ranks, tiny_job

pytestmark = pytest.mark.integration

BATCH = 5
"""Rows of a step: of three micro-batches on one rank, of two on each of two, the rest padding."""

STAGES = (1, 3)
MASKS = [{"targets": 0.5, "context": 0.25}, {"targets": 0.4, "context": 0.3}]
KINDS: dict[str, dict[str, Any]] = {
    "vjepa2": {"kind": "vjepa2", "ema": 0.9, "masks": MASKS},
    "lejepa": {"kind": "lejepa", "slices": 8, "weight": 0.3, "masks": MASKS},
}


def job_of(kind: str, stage: int) -> TrainJob:
    data = job_dict(tiny_job()) | {"objective": KINDS[kind]}
    data["scale"] |= {"global_batch": BATCH, "micro_batch": 2, "zero": stage}
    data["data"] |= {
        "source": None,
        "sources": [
            {"uri": "videos", "weight": 1},
            {"uri": "photos", "weight": 1, "frames": 2},
            {"uri": "sharp", "weight": 1, "size": 48},
        ],
    }
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


def batch_of(job: TrainJob, step: int) -> Batch:
    """The global batch of a step: step s is of the s-th shape; one clip of it failed."""
    shown = job.with_clip_spec(job.data.clip_specs[step % 3])
    draw = torch.Generator().manual_seed(70 + step)
    shape = (BATCH, shown.data.frames, shown.data.size, shown.data.size, 3)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    weight = torch.ones(BATCH)
    weight[step % BATCH] = 0.0
    position = np.arange(step * BATCH, (step + 1) * BATCH)
    drawn = [
        [mask(generator(5, p, "masks")) for p in position.tolist()]
        for mask in build_mask_samplers(shown)
    ]
    masks = [
        tuple(torch.stack([torch.from_numpy(ids[i]) for ids in rows]) for i in (0, 1))
        for rows in drawn
    ]
    keys = [f"k{p}" for p in position]
    return Batch(video, weight, position, masks, keys, keys, [])  # type: ignore[arg-type]


def train_shapes(rank: int, world: int) -> dict[Any, Any]:
    out = {}
    for kind in KINDS:
        for stage in STAGES:
            job = job_of(kind, stage)
            engine = make_engine(job, world)
            losses, first = [], {}
            for step in range(3):
                result = engine.train_step(
                    rank_micro_batches_with_keys(batch_of(job, step), engine.batch_plan, rank)
                )
                assert result.applied
                losses.append(result.loss)
                first[step] = engine.take_snapshot().slices
            out[kind, stage] = losses, first, engine.spike_guard.state_dict()
    return out


def test_a_step_of_each_shape_is_the_same_on_one_rank_and_on_two() -> None:
    one, two = run_ranks(1, train_shapes), run_ranks(2, train_shapes)
    for kind in KINDS:
        job = job_of(kind, 1)
        plain = one[0][kind, 1][0]
        objective = build_objective(job)
        batch = batch_of(job, 0)
        if kind == "vjepa2":
            video = normalise(batch.video, torch.float32)
            targets = objective.targets(objective.encoder, video)
            wanted = float(single_process_loss(objective, batch, targets).detach())
            assert plain[0] == pytest.approx(wanted, rel=1e-5)
        for stage in STAGES:
            for ranks in (one, two):
                assert ranks[0][kind, stage][0] == pytest.approx(plain, rel=1e-5)
            for step in range(3):
                moments = [
                    gather_slices(
                        [s for rank in ranks for s in rank[kind, stage][1][step]], "exp_avg"
                    )
                    for ranks in (one, two)
                ]
                apart = sum(float((moments[0][n] - m).square().sum())
                            for n, m in moments[1].items())  # fmt: skip
                size = sum(float(m.square().sum()) for m in moments[1].values())
                assert math.sqrt(apart / size) < 1e-4, (kind, stage, step)
    known = one[0]["vjepa2", 1][2]
    assert {name: len(losses) for name, losses in known.items()} == {
        "4 frames of 32 pixels": 1,
        "2 frames of 32 pixels": 1,
        "4 frames of 48 pixels": 1,
    }
    assert known == {
        name: pytest.approx(losses, rel=1e-5) for name, losses in two[1]["vjepa2", 1][2].items()
    }


def test_a_batch_says_its_shape() -> None:
    batch = batch_of(job_of("vjepa2", 1), 2)
    assert batch.bucket == (4, 48)
    assert replace(batch, video=batch.video[:1]).bucket == batch.bucket
