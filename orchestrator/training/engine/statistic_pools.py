"""The sets of clips that a statistic acts on, whatever ranks and micro-batches hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.jepa.objectives import BatchStatisticObjective, ClipSets
from orchestrator.randomness import generator

if TYPE_CHECKING:
    from orchestrator.data.loader.batch import Batch
    from orchestrator.training.engine.engine import Engine


def build_statistic_pools(engine: Engine, micro: Sequence[Batch]) -> Sequence[ClipSets | None]:
    """What each micro-batch of this rank knows of all others: a collective.

    None where the loss does not join clips. Several micro-batches take two passes: the first,
    without a graph, sums up what the statistic depends on.
    """
    if not isinstance(engine.objective, BatchStatisticObjective):
        return [None] * len(micro)
    pools = _local_pools(engine.objective, micro, engine)
    if len(micro) == 1:
        return pools
    sums: Tensor | None = None
    for batch, pool in zip(micro, pools, strict=True):
        with torch.no_grad():
            own, _ = engine.deepspeed(engine.device_video(batch), None, pool, None)
        sums = own if sums is None else sums.add_(own)
    assert sums is not None
    dist.all_reduce(sums)
    return [replace(pool, precomputed_sums=sums) for pool in pools]


def _local_pools(
    objective: BatchStatisticObjective, micro: Sequence[Batch], engine: Engine
) -> list[ClipSets]:
    """The set of a clip follows from its position in the global batch alone."""
    job, device = engine.job, engine.device
    whole, each = job.scale.global_batch, objective.statistic_clips
    members = [_pool_index(batch, whole, each) for batch in micro]
    weights = [
        _weights_by_pool(batch.weight, at, whole // each)
        for batch, at in zip(micro, members, strict=True)
    ]
    clips = torch.stack([rows.sum(1) for rows in weights]).sum(0).to(device)
    dist.all_reduce(clips)
    seed = int(generator(job.seed, engine.step, "slices").integers(2**63))
    return [
        ClipSets(
            set_index=at.to(device),
            # A set whose clips all failed has weight 0 everywhere: 0 / 1, not 0 / 0.
            mean_weight=rows.to(device) / clips.clamp_min(1.0)[:, None],
            clips_per_set=clips,
            seed=seed,
            all_reduce_sum=_all_reduce_sum,
        )
        for at, rows in zip(members, weights, strict=True)
    ]


def _pool_index(batch: Batch, whole: int, each: int) -> Tensor:
    """The set of each clip: step s trains the positions from s * whole on. 0 for padding, which
    has no position and weight 0."""
    at = torch.from_numpy(batch.position) % whole // each
    return torch.where(batch.weight > 0, at, 0)


def _weights_by_pool(weight: Tensor, member: Tensor, sets: int) -> Tensor:
    """[B] -> [sets, B]: a clip's weight in its own set's row."""
    rows = torch.zeros(sets, len(weight))
    rows[member, torch.arange(len(weight))] = weight
    return rows


def _all_reduce_sum(sums: Tensor) -> Tensor:
    """Summed over the ranks, in place."""
    dist.all_reduce(sums)
    return sums
