"""The feed gives each rank its positions, at any world size, and loses nothing silently."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from orchestrator.data.loader.batch import StepBatch
from orchestrator.data.loader.clip_reader import ClipLocations, ClipReader
from orchestrator.data.loader.data_loader import check_rank_positions, open_data_loader
from orchestrator.data.loader.order import Order
from orchestrator.data.loader.rank_assignment import MAX_BLOCK_BYTES, RankAssignment
from orchestrator.errors import JobFailed
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob
from tests.support.clips import FakePrepared, InMemoryIndex, feed_job, pad_mp4, small_video
from tests.support.waiting import wait_until

VIDEOS = [small_video(seed) for seed in range(4)]


def made(counts: tuple[int, ...] = (3, 4, 2), **options: Any) -> InMemoryIndex:
    payloads = [[VIDEOS[(s + r) % 4] for r in range(n)] for s, n in enumerate(counts)]
    return InMemoryIndex("a", payloads, **options)


def local(
    job: TrainJob, index: InMemoryIndex, world: int = 1, start: int = 0
) -> list[list[StepBatch]]:
    """All steps of all ranks, one rank after the other, without Ray."""
    ranks = []
    for rank in range(world):
        feed = open_data_loader(
            job,
            FakePrepared([index], [None]),  # type: ignore[arg-type]
            BatchSizes.from_scale(job.scale, world),
            rank=rank,
            start_step=start,
            threads=2,
            broadcast=None,
        )
        with closing(feed):
            ranks.append(list(feed))
    return ranks


def by_position(ranks: list[list[StepBatch]]) -> dict[int, tuple[torch.Tensor, ...]]:
    """Pixels and masks of every real row."""
    out = {}
    for steps in ranks:
        for batch in (micro for step in steps for micro in step.micro_batches):
            for row, position in enumerate(batch.position.tolist()):
                if position >= 0:
                    masks = [ids[row] for mask in batch.masks for ids in mask]
                    assert position not in out
                    out[position] = (batch.video[row], *masks)
    return out


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_every_world_size_trains_the_same_pixels_and_masks(world: int) -> None:
    job = feed_job(steps=3, global_batch=8, micro_batch=4)
    one, many = by_position(local(job, made())), by_position(local(job, made(), world))
    assert sorted(one) == sorted(many) == list(range(24))
    for position, row in one.items():
        assert all(map(torch.equal, row, many[position]))


@pytest.mark.parametrize("world", [1, 3, 5])
def test_padding_has_no_weight_and_is_black(world: int) -> None:
    job = feed_job(steps=2, global_batch=8, micro_batch=3)
    plan = BatchSizes.from_scale(job.scale, world)
    for steps in zip(*local(job, made(), world), strict=True):
        batches = [micro for step in steps for micro in step.micro_batches]
        assert all(len(b.weight) == plan.micro for b in batches)
        assert len(batches) == world * plan.accum
        weight = torch.cat([b.weight for b in batches])
        assert weight.sum() == 8
        assert len(weight) == plan.padded
        for batch in batches:
            padding = torch.from_numpy(batch.position) < 0
            assert torch.equal(batch.weight == 0, padding)
            assert not batch.video[padding].any()
            assert not batch.failures


def test_a_restart_in_the_middle_changes_nothing() -> None:
    job = feed_job(steps=7, global_batch=4, micro_batch=4)
    whole, rest = by_position(local(job, made())), by_position(local(job, made(), 2, start=4))
    assert sorted(rest) == list(range(16, 28))
    for position, row in rest.items():
        assert all(map(torch.equal, row, whole[position]))


def test_what_cannot_be_used_keeps_its_place_with_no_weight() -> None:
    index = made()
    index.payloads[1][2] = VIDEOS[0][:1000]  # truncated, and indexed so
    index.wrong_hashes[(0, 1)] = "0" * 64  # other bytes than were indexed
    job = feed_job(steps=2, global_batch=9, micro_batch=9, bad_limit=1.0)
    good = by_position(local(job, made()))
    (steps,) = local(job, index)
    for step in steps:
        (batch,) = step.micro_batches
        reasons = {failure.key: failure.reason for failure in batch.failures}
        assert set(reasons) == {"a-1-2", "a-0-1"}
        assert "cannot be decoded" in reasons["a-1-2"]
        assert "sha256 differs" in reasons["a-0-1"]
        failed = {failure.position for failure in batch.failures}
        for row, position in enumerate(batch.position.tolist()):
            assert batch.weight[row] == (position not in failed)
            expected = torch.zeros(1) if position in failed else good[position][0]
            assert torch.equal(batch.video[row], expected.to(torch.uint8).expand(4, 16, 16, 3))


def test_too_many_failures_stop_the_job_and_are_named() -> None:
    index = made((20,))
    index.payloads[0][7] = b"no video"
    job = feed_job(steps=30, global_batch=20, micro_batch=20, bad_limit=0.02)
    with pytest.raises(JobFailed, match=r"3 of 60 clips .* data.bad_limit 0.02(.|\n)*a-0-7"):
        local(job, index)
    assert (
        len(local(feed_job(steps=8, global_batch=20, micro_batch=20, bad_limit=0.05), index)[0])
        == 8
    )


def test_rows_that_are_not_a_ranks_own_stop_the_job() -> None:
    layout = RankAssignment(BatchSizes(8, 2, 4, 1), 2)
    order = Order([np.array([3, 4, 2])], [None], 0, 2)
    reader = ClipReader([made()], 2)
    rows = [
        reader.read(ClipLocations.from_order(order, layout.rank_positions(5, rank)))
        for rank in range(2)
    ]
    check_rank_positions(layout, 5, 0, rows[0])
    check_rank_positions(layout, 5, 1, rows[1])
    for wrong in (rows[1], rows[0].slice(0, 3), rows[0].take([1, 0, 2, 3])):
        with pytest.raises(JobFailed, match="rank 0 got positions"):
            check_rank_positions(layout, 5, 0, wrong)


class Breaks:
    """A user's augmentation with a mistake in it."""

    class Config(BaseModel):
        """No keys."""

    def __init__(self, config: Config, size: int) -> None:
        pass

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise ZeroDivisionError("a mistake in mylab")


def test_an_error_in_a_thread_is_raised_by_next() -> None:
    job = feed_job(augment={"kind": "test_feed:Breaks"})
    with pytest.raises(ZeroDivisionError, match="a mistake in mylab"):
        local(job, made())


def test_an_index_that_cannot_be_read_is_raised_by_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: InMemoryIndex, shard: int) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(InMemoryIndex, "shard_rows", gone)
    with pytest.raises(MemoryError, match="no room"):
        local(feed_job(), made())


def test_no_more_than_the_prefetch_is_decoded_ahead() -> None:
    class Counting(InMemoryIndex):
        reads = 0

        def read_bytes(self, *place: Any, **options: Any) -> bytes:
            Counting.reads += 1
            return super().read_bytes(*place, **options)

    job = feed_job(steps=20, global_batch=4, micro_batch=4, prefetch=3)
    index = Counting("a", made().payloads)
    feed = open_data_loader(
        job,
        FakePrepared([index], [None]),  # type: ignore[arg-type]
        BatchSizes.from_scale(job.scale, 1),
        rank=0,
        start_step=0,
        threads=1,
        broadcast=None,
    )
    next(feed)
    wait_until(lambda: Counting.reads == 4 * (1 + 3))
    time.sleep(0.2)
    assert Counting.reads == 4 * (1 + 3)
    feed.close()  # in the middle: nothing is left running
    wait_until(
        lambda: (
            not [t for t in threading.enumerate() if t.name.startswith(("data-loader", "decode"))]
        )
    )


@pytest.mark.parametrize(
    ("plan", "clip_bytes", "part", "steps"),
    [
        (BatchSizes(3072, 128, 24, 1), 300_000, 24, 4),
        (BatchSizes(3072, 128, 24, 1), 700_000, 24, 1),
        (BatchSizes(3072, 128, 24, 1), 50_000_000, 1, 1),
        (BatchSizes(3072, 16, 24, 8), 300_000, 24, 1),
        (BatchSizes(32, 3, 8, 2), 3_000_000, 8, 1),
        (BatchSizes(32, 3, 8, 2), 200_000, 16, 8),
        (BatchSizes(16, 2, 8, 1), 10_000, 8, 8),
    ],
)
def test_blocks_are_of_a_useful_size(
    plan: BatchSizes, clip_bytes: int, part: int, steps: int
) -> None:
    layout = RankAssignment.for_clip_size(plan, clip_bytes)
    assert (layout.rows_per_part, layout.steps_per_block) == (part, steps)
    assert layout.rows_per_block == 1 or layout.rows_per_block * clip_bytes <= MAX_BLOCK_BYTES


@pytest.mark.parametrize("clip_bytes", [3_000_000, 100_000, 1000])
def test_dealing_blocks_in_turn_gives_each_rank_its_rows(clip_bytes: int) -> None:
    """By a naive dealer: each block to the rank that has the fewest rows."""
    layout = RankAssignment.for_clip_size(BatchSizes(32, 3, 8, 2), clip_bytes)
    got: list[list[int]] = [[], [], []]
    for block in layout.block_positions(range(7, 20)):
        min(got, key=len).extend(block.tolist())
    for rank in range(3):
        expected = np.concatenate([layout.rank_positions(step, rank) for step in range(7, 20)])
        assert got[rank] == expected.tolist()
    rows = np.concatenate([layout.rank_positions(7, rank) for rank in range(3)])
    assert sorted(rows[rows >= 0].tolist()) == list(range(7 * 32, 8 * 32))


def test_clips_of_very_different_size_are_read_whole() -> None:
    sizes = [1000, 100_000, 5_000_000]
    payloads = [pad_mp4(VIDEOS[i], size) for i, size in enumerate(sizes)]
    order = Order([np.array([3])], [None], 0, 1)
    table = ClipReader([InMemoryIndex("a", [payloads])], 1).read(
        ClipLocations.from_order(order, np.arange(3))
    )
    assert sorted(map(len, table["payload"].to_pylist())) == sorted(map(len, payloads))
