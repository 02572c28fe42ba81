"""Ranks for tests: processes with a gloo group, a tiny job, made batches dealt to them."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orchestrator.data.loader.batch import Batch
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.job import TrainJob, build_job
from orchestrator.training.engine.tensor_slices import TensorSlice

# A server imports the heavy modules once; every rank is a fork of it.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
multiprocessing.set_forkserver_preload(
    [
        "deepspeed.runtime.zero.stage3",
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "orchestrator.training.checkpoints.manager",
        "orchestrator.training.engine.engine",
    ]
)

STEPS = 50
GLOBAL_BATCH = 8


def tiny_job(
    *, scale: dict[str, Any] | None = None, ema: float = 0.99, depth: int = 2, **optim: Any
) -> TrainJob:
    """A V-JEPA 2 of 20,000 weights over clips of 4 x 32 x 32: 32 tokens."""
    job = build_job(
        {
            "kind": "train",
            "name": "tiny",
            "data": {"source": "unused", "frames": 4, "size": 32},
            "model": {
                "encoder": {"dim": 24, "depth": depth, "heads": 2},
                "patch": 8,
                "tubelet": 2,
                "predictor": {"dim": 12, "depth": 1, "heads": 2},
            },
            "objective": {"kind": "vjepa2", "ema": ema},
            "optim": {"steps": STEPS, "lr": 1e-4, "warmup": 5, "clip": 1.0, **optim},
            "scale": {"global_batch": GLOBAL_BATCH, "micro_batch": 2, "precision": "fp32"}
            | (scale or {}),
        }
    )
    assert isinstance(job, TrainJob)
    return job


def random_batch(step: int, rows: int = GLOBAL_BATCH) -> Batch:
    """The global batch of a step: random clips, two masks; one clip of every third step failed."""
    draw = torch.Generator().manual_seed(2000 + step)
    video = torch.randint(0, 256, (rows, 4, 32, 32, 3), dtype=torch.uint8, generator=draw)
    weight = torch.ones(rows)
    if step % 3 == 0:
        weight[step % rows] = 0.0
    masks = []
    for context, target in ((8, 20), (4, 24)):
        order = torch.stack([torch.randperm(32, generator=draw) for _ in range(rows)])
        masks.append(
            (
                order[:, :context].sort(1).values,
                order[:, context : context + target].sort(1).values,
            )
        )
    return Batch(video, weight, np.arange(rows), masks, [""] * rows, [""] * rows, [])


def batch_rows(batch: Batch, low: int, high: int) -> Batch:
    """Rows `low` .. `high` of a batch; past its end: padding of weight 0."""
    video, weight = batch.video[low:high], batch.weight[low:high]
    masks = [(c[low:high], t[low:high]) for c, t in batch.masks]
    motion = batch.actions and ActionBatch(*(part[low:high] for part in batch.actions))
    short = high - low - len(video)
    if short and motion:
        motion = ActionBatch(*(torch.cat([p, p.new_zeros(short, *p.shape[1:])]) for p in motion))
    if short:
        video = torch.cat([video, torch.zeros(short, *batch.video.shape[1:], dtype=torch.uint8)])
        weight = torch.cat([weight, torch.zeros(short)])
        masks = [
            (torch.cat([c, b[0][:short]]), torch.cat([t, b[1][:short]]))
            for (c, t), b in zip(masks, batch.masks, strict=True)
        ]
    none = [""] * (high - low)
    return Batch(video, weight, np.full(high - low, -1), masks, none, none, [], motion)


def rank_micro_batches(batch: Batch, plan: BatchSizes, rank: int) -> list[Batch]:
    """A rank's micro-batches of a global batch."""
    first = rank * plan.micro * plan.accum
    return [
        batch_rows(batch, first + i * plan.micro, first + (i + 1) * plan.micro)
        for i in range(plan.accum)
    ]


def make_engine(job: TrainJob, world_size: int) -> Any:
    """The job's engine on this rank's CPU."""
    from orchestrator.jepa.objectives import build_objective
    from orchestrator.training.engine.engine import Engine

    plan = BatchSizes.from_scale(job.scale, world_size)
    return Engine(build_objective(job), job, plan, torch.device("cpu"))


def train_steps(engine: Any, rank: int, first: int, last: int) -> list[float]:
    """Steps `first` .. `last`; gives their losses."""
    plan = engine.batch_plan
    return [
        engine.train_step(rank_micro_batches(random_batch(step), plan, rank)).loss
        for step in range(first, last)
    ]


def gather_slices(slices: list[TensorSlice], kind: str) -> dict[str, torch.Tensor]:
    """Whole tensors from all ranks' slices. Every element must be there exactly once."""
    tensors: dict[str, torch.Tensor] = {}
    seen: dict[str, torch.Tensor] = {}
    for piece in (s for s in slices if s.kind == kind):
        size = int(np.prod(piece.shape))
        flat = tensors.setdefault(piece.name, torch.zeros(size))
        count = seen.setdefault(piece.name, torch.zeros(size, dtype=torch.int32))
        flat[piece.offset : piece.offset + len(piece.data)] = piece.data
        count[piece.offset : piece.offset + len(piece.data)] += 1
    assert all(bool((count == 1).all()) for count in seen.values())
    return tensors


def assert_ranks_match(
    ranks: list[Any],
    losses: list[float],
    loss: float,
    gradient: dict[str, torch.Tensor],
    case: object,
) -> None:
    """What all ranks found, (losses, slices after the first step), is that of one rank (`losses`)
    and of one plain forward and backward (`loss`, `gradient`, clipped)."""
    assert ranks[0][0] == ranks[-1][0]
    assert ranks[0][0][0] == pytest.approx(loss, rel=1e-5), case
    assert ranks[0][0] == pytest.approx(losses, rel=2e-5), case
    moment = gather_slices([piece for rank in ranks for piece in rank[1]], "exp_avg")
    size = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    apart = sum(
        float((moment[n].double() / 0.1 - g.reshape(-1)).square().sum())
        for n, g in gradient.items()
    )
    assert math.sqrt(apart) / size < 1e-5, case


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(rank, world_size, *arguments)` in `world_size` processes; what each returned."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _rank_main,
            (world_size, folder, function, arguments),
            world_size,
            start_method="forkserver",
        )
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False)
            for rank in range(world_size)
        ]


def _rank_main(
    rank: int,
    world_size: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    warnings.simplefilter("ignore")
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(world_size)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    result = function(rank, world_size, *arguments)
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
