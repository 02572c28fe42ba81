"""The feed: one rank's batches, step after step, decoded beside the training step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from orchestrator.data.loader.action_data import required_arrays
from orchestrator.data.loader.batch import Batch, ClipFailure, StepBatch
from orchestrator.data.loader.batch_assembler import BatchAssembler, PendingBatch, SpecLookup
from orchestrator.data.loader.clip_reader import ClipIndex, ClipLocations, ClipReader
from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.loader.rank_assignment import RankAssignment
from orchestrator.errors import JobFailed
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob

if TYPE_CHECKING:
    from orchestrator.data.packing.prepare import PreparedData

MIN_CLIPS_FOR_FAILURE_RATE = 100
"""Clips after which a share of failures says something."""


def open_data_loader(
    job: TrainJob,
    prepared: PreparedData,
    batch: BatchSizes,
    *,
    rank: int,
    start_step: int,
    threads: int,
    broadcast: Callable[[Any], Any] | None,
) -> ClipDataLoader:
    """One rank's feed for steps `start_step` to `optim.steps` - 1.

    Args:
        threads: clips that this rank decodes at a time.
        broadcast: a broadcast from rank 0 (its argument on rank 0, returned on every rank),
            called here and inside `next(feed)` at steps that every rank knows. None: one
            process that reads and decodes by itself, without Ray, where a debugger works.

    Raises:
        RequestError: a source without clips.
    """
    indexes, arrays = prepared.indexes, required_arrays(job.data)
    counts = [index.clips_per_shard for index in indexes]
    order = Order.from_job(job, counts, prepared.weights)
    clip_bytes = estimate_clip_bytes(indexes, len(job.data.buckets))
    layout = RankAssignment.for_clip_size(batch, clip_bytes)
    steps = range(start_step, job.optim.steps)
    source: RowSource
    if broadcast is None:
        source = LocalRowSource(
            ClipReader(indexes, job.data.window + 2, arrays), order, layout, rank
        )
    else:
        from orchestrator.data.loader.stream_windows import (
            RayRowSource,
            WindowBuilder,
            steps_per_window,
        )

        builder = None
        if rank == 0:
            builder = WindowBuilder(indexes, order, layout, job.data.window, arrays)
        length = broadcast(steps_per_window(layout, clip_bytes))
        source = RayRowSource(steps, layout, rank, broadcast, builder, length)
    specs, isolated = SpecLookup(job, order), broadcast is not None
    assembler = BatchAssembler(job, specs, batch.micro, threads, in_subprocesses=isolated)
    return ClipDataLoader(
        steps, layout, rank, source, assembler, job.data.prefetch, job.data.bad_limit
    )


def estimate_clip_bytes(indexes: Sequence[ClipIndex], buckets: int) -> float:
    """Coded bytes that a clip is reckoned with: the mean, or that of the source with the largest
    where steps are of several shapes. Pictures are many and small: blocks that are right for them
    would be far too large in a step of videos."""
    if buckets == 1:
        return sum(index.num_bytes for index in indexes) / sum(index.num_clips for index in indexes)
    return max(index.num_bytes / index.num_clips for index in indexes)


class RowSource(Protocol):
    """Where a rank's rows come from."""

    def prepare_step(self, step: int) -> None:
        """Called on the main thread before each step."""

    def rows_of_step(self, step: int) -> pa.Table:
        """The rank's rows of a step; called on the feed's thread, steps ascending."""

    def close(self) -> None:
        """End what runs in the background."""


class LocalRowSource:
    """Reads a rank's rows itself."""

    def __init__(self, reader: ClipReader, order: Order, layout: RankAssignment, rank: int) -> None:
        self._reader, self._order, self._layout, self._rank = reader, order, layout, rank

    def prepare_step(self, step: int) -> None:
        """Nothing is due: there is nobody to meet."""

    def rows_of_step(self, step: int) -> pa.Table:
        return self._reader.read(
            ClipLocations.from_order(self._order, self._layout.rank_positions(step, self._rank))
        )

    def close(self) -> None:
        """Nothing runs."""


class ClipDataLoader:
    """Iterates over `StepBatch`. A thread keeps `prefetch` steps being decoded ahead.

    Raises, from `next`:
        JobFailed: more clips failed than `bad_limit` allows, or Ray delivered rows that do
            not belong to this rank and step.
    """

    def __init__(
        self,
        steps: range,
        layout: RankAssignment,
        rank: int,
        row_source: RowSource,
        assembler: BatchAssembler,
        prefetch: int,
        bad_limit: float,
    ) -> None:
        self._steps, self._layout, self._rank = steps, layout, rank
        self._source, self._assembler = row_source, assembler
        self._failures = FailureLimit(bad_limit)
        self._upcoming = iter(steps)
        self._prefetch_slots = threading.Semaphore(prefetch)
        self._pending: queue.Queue[list[PendingBatch] | BaseException] = queue.Queue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __iter__(self) -> ClipDataLoader:
        return self

    def __next__(self) -> StepBatch:
        step = next(self._upcoming)
        began = time.perf_counter()
        self._source.prepare_step(step)
        if step == self._steps.start:
            self._thread.start()
        pending = self._pending.get()
        if isinstance(pending, BaseException):
            raise pending
        micro = [batch.result() for batch in pending]
        self._prefetch_slots.release()
        for batch in micro:
            self._failures.add(batch)
        return StepBatch(step, micro, time.perf_counter() - began)

    def close(self) -> None:
        """End the threads; what is being decoded is dropped."""
        self._closed.set()
        self._prefetch_slots.release()
        self._source.close()
        self._assembler.close()

    def _run(self) -> None:
        try:
            for step in self._steps:
                self._prefetch_slots.acquire()
                if self._closed.is_set():
                    return
                rows = self._source.rows_of_step(step)
                check_rank_positions(self._layout, step, self._rank, rows)
                self._pending.put(self._assembler.start_step(step, rows))
        except BaseException as error:
            self._pending.put(error)


def check_rank_positions(layout: RankAssignment, step: int, rank: int, rows: pa.Table) -> None:
    """Compare the rows that arrived with the rows that a rank must get.

    Raises:
        JobFailed: they differ. The splitting of Ray Data is not ours; this never trains on
            other clips than the order names.
    """
    expected, got = layout.rank_positions(step, rank), rows["position"].to_numpy()
    if not np.array_equal(expected, got):
        raise JobFailed(
            f"rank {rank} was dealt positions {got.tolist()} at step {step},"
            f" not {expected.tolist()}",
            hint="this is a fault of the feed or of this version of Ray; please report it",
        )


class FailureLimit:
    """Counts clips that failed, and stops the job when they are too many."""

    def __init__(self, limit: float) -> None:
        self._limit, self._num_clips = limit, 0
        self._failures = 0
        self._recent_failures: list[ClipFailure] = []

    def add(self, batch: Batch) -> None:
        """Count one micro-batch.

        Raises:
            JobFailed: more than `limit` of the clips so far failed (of 100 at least, so that
                one bad clip at the start does not stop a job).
        """
        self._num_clips += int((batch.position != PADDING).sum())
        self._failures += len(batch.failures)
        self._recent_failures = [*self._recent_failures, *batch.failures][-5:]
        if self._failures <= self._limit * max(self._num_clips, MIN_CLIPS_FOR_FAILURE_RATE):
            return
        named = "".join(f"\n    {f.shard} {f.key}: {f.reason}" for f in self._recent_failures)
        raise JobFailed(
            f"{self._failures} of {self._num_clips} clips could not be used, more than"
            f" data.bad_limit {self._limit:g}; the last:{named}",
            hint="mend or remove them (orchestrator data verify lists all), or raise"
            " data.bad_limit",
        )
