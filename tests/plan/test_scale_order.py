"""The order at 1,024 ranks and 10^9 clips: who gets what, in little memory, at any world size."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.loader.rank_assignment import RankAssignment
from orchestrator.estimate import BatchSizes
from orchestrator.job import Scale

CLIPS, SHARDS, WINDOW = 1_000_000_000, 1_000_000, 16
CLIP_BYTES = 316_000.0
SCALE = Scale.model_validate(
    {"workers": {"min": 8, "max": 1024}, "global_batch": 3072, "micro_batch": 24}
)


@pytest.fixture(scope="module")
def order() -> Order:
    return Order([np.full(SHARDS, CLIPS // SHARDS)], [None], seed=1, shuffle_window=WINDOW)


def layout(world: int) -> RankAssignment:
    return RankAssignment.for_clip_size(BatchSizes.from_scale(SCALE, world), CLIP_BYTES)


@pytest.mark.parametrize("world", [8, 24, 129, 1000, 1023, 1024])
@pytest.mark.parametrize("step", [0, 325_520])
def test_every_rank_is_dealt_its_share(world: int, step: int) -> None:
    """At every elastic size a step trains the same positions, once each. 325,520 is the step in
    which the first pass ends and the second begins."""
    dealt = [layout(world).rank_positions(step, rank) for rank in range(world)]
    batch = BatchSizes.from_scale(SCALE, world)
    assert {len(rows) for rows in dealt} == {batch.micro * batch.accum}
    rows = np.concatenate(dealt)
    assert (rows == PADDING).sum() == batch.padding
    wanted = np.arange(step * 3072, (step + 1) * 3072)
    assert np.array_equal(np.sort(rows[rows != PADDING]), wanted)


def test_a_step_of_1024_ranks_across_a_pass_reads_each_clip_once(order: Order) -> None:
    step = CLIPS // 3072
    positions = np.concatenate([layout(1024).rank_positions(step, rank) for rank in range(1024)])
    drawn = order.lookup(np.sort(positions))
    assert set(drawn.pass_index.tolist()) == {0, 1}
    for turn in (0, 1):
        mine = drawn.pass_index == turn
        clips = drawn.shard[mine] * (CLIPS // SHARDS) + drawn.row[mine]
        assert len(np.unique(clips)) == mine.sum()
        # Few shards are open at a time, whatever their number.
        assert len(np.unique(drawn.shard[mine])) <= 2 * WINDOW


def test_1024_ranks_in_the_middle_of_1e9_clips_take_little_memory_and_time() -> None:
    tracemalloc.start()
    order = Order([np.full(SHARDS, CLIPS // SHARDS)], [None], seed=1, shuffle_window=WINDOW)
    blocks = layout(1024).block_positions(range(170_000, 170_008))
    drawn = order.lookup(np.concatenate(blocks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn.shard) == 8 * 3072
    assert peak < 100e6
