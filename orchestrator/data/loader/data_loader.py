"""The feed: one rank's batches, step after step, decoded beside the training step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from orchestrator.data.loader.action_data import arrays_of
from orchestrator.data.loader.batch import Batch, Failure, StepBatch
from orchestrator.data.loader.batch_assembler import Assembler, PendingBatch
from orchestrator.data.loader.multi_spec import Specs
from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.loader.rank_assignment import Layout
from orchestrator.data.store.clip_reader import ClipReader, Clips, Span
from orchestrator.errors import JobFailed
from orchestrator.estimate import BatchPlan
from orchestrator.job import TrainJob

if TYPE_CHECKING:
    from orchestrator.data.packing.prepare import Prepared

LEAST_CLIPS = 100
"""Clips after which a share of failures says something."""


def open_feed(
    job: TrainJob,
    prepared: Prepared,
    batch: BatchPlan,
    *,
    rank: int,
    start_step: int,
    threads: int,
    exchange: Callable[[Any], Any] | None,
) -> Feed:
    """One rank's feed for steps `start_step` to `optim.steps` - 1.

    Args:
        threads: clips that this rank decodes at a time.
        exchange: a broadcast from rank 0 (its argument on rank 0, returned on every rank),
            called here and inside `next(feed)` at steps that every rank knows. None: one
            process that reads and decodes by itself, without Ray, where a debugger works.

    Raises:
        RequestError: a source without clips.
    """
    indexes, arrays = prepared.indexes, arrays_of(job.data)
    counts = [index.counts for index in indexes]
    order = Order.of(job, counts, prepared.weights)
    clip_bytes = bytes_of_clip(indexes, len(job.data.buckets))
    layout = Layout.of(batch, clip_bytes)
    steps = range(start_step, job.optim.steps)
    source: Rows
    if exchange is None:
        source = LocalRows(ClipReader(indexes, job.data.window + 2, arrays), order, layout, rank)
    else:
        from orchestrator.data.loader.stream_windows import LegBuilder, RayRows, leg_length

        builder = None
        if rank == 0:
            builder = LegBuilder(indexes, order, layout, job.data.window, arrays)
        length = exchange(leg_length(layout, clip_bytes))
        source = RayRows(steps, layout, rank, exchange, builder, length)
    specs, isolated = Specs(job, order), exchange is not None
    assembler = Assembler(job, specs, batch.micro, threads, isolated=isolated)
    return Feed(steps, layout, rank, source, assembler, job.data.prefetch, job.data.bad_limit)


def bytes_of_clip(indexes: Sequence[Clips], buckets: int) -> float:
    """Coded bytes that a clip is reckoned with: the mean, or that of the source with the largest
    where steps are of several shapes. Pictures are many and small: blocks that are right for them
    would be far too large in a step of videos."""
    if buckets == 1:
        return sum(index.bytes for index in indexes) / sum(index.clips for index in indexes)
    return max(index.bytes / index.clips for index in indexes)


class Rows(Protocol):
    """Where a rank's rows come from."""

    def advance(self, step: int) -> None:
        """Called on the main thread before each step."""

    def rows(self, step: int) -> pa.Table:
        """The rank's rows of a step; called on the feed's thread, steps ascending."""

    def close(self) -> None:
        """End what runs in the background."""


class LocalRows:
    """Reads a rank's rows itself."""

    def __init__(self, reader: ClipReader, order: Order, layout: Layout, rank: int) -> None:
        self._reader, self._order, self._layout, self._rank = reader, order, layout, rank

    def advance(self, step: int) -> None:
        """Nothing is due: there is nobody to meet."""

    def rows(self, step: int) -> pa.Table:
        return self._reader.read(Span.of(self._order, self._layout.dealt(step, self._rank)))

    def close(self) -> None:
        """Nothing runs."""


class Feed:
    """Iterates over `StepBatch`. A thread keeps `prefetch` steps being decoded ahead.

    Raises, from `next`:
        JobFailed: more clips failed than `bad_limit` allows, or Ray delivered rows that do
            not belong to this rank and step.
    """

    def __init__(
        self,
        steps: range,
        layout: Layout,
        rank: int,
        source: Rows,
        assembler: Assembler,
        prefetch: int,
        bad_limit: float,
    ) -> None:
        self._steps, self._layout, self._rank = steps, layout, rank
        self._source, self._assembler = source, assembler
        self._failures = FailureCount(bad_limit)
        self._upcoming = iter(steps)
        self._room = threading.Semaphore(prefetch)
        self._pending: queue.Queue[list[PendingBatch] | BaseException] = queue.Queue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> StepBatch:
        step = next(self._upcoming)
        began = time.perf_counter()
        self._source.advance(step)
        if step == self._steps.start:
            self._thread.start()
        pending = self._pending.get()
        if isinstance(pending, BaseException):
            raise pending
        micro = [batch.finish() for batch in pending]
        self._room.release()
        for batch in micro:
            self._failures.add(batch)
        return StepBatch(step, micro, time.perf_counter() - began)

    def close(self) -> None:
        """End the threads; what is being decoded is dropped."""
        self._closed.set()
        self._room.release()
        self._source.close()
        self._assembler.close()

    def _run(self) -> None:
        try:
            for step in self._steps:
                self._room.acquire()
                if self._closed.is_set():
                    return
                rows = self._source.rows(step)
                check_dealt(self._layout, step, self._rank, rows)
                self._pending.put(self._assembler.begin(step, rows))
        except BaseException as error:
            self._pending.put(error)


def check_dealt(layout: Layout, step: int, rank: int, rows: pa.Table) -> None:
    """Compare the rows that arrived with the rows that a rank must get.

    Raises:
        JobFailed: they differ. The splitting of Ray Data is not ours; this never trains on
            other clips than the order names.
    """
    expected, got = layout.dealt(step, rank), rows["position"].to_numpy()
    if not np.array_equal(expected, got):
        raise JobFailed(
            f"rank {rank} was dealt positions {got.tolist()} at step {step},"
            f" not {expected.tolist()}",
            mend="this is a fault of the feed or of this version of Ray; please report it",
        )


class FailureCount:
    """Counts clips that failed, and stops the job when they are too many."""

    def __init__(self, limit: float) -> None:
        self._limit, self._seen = limit, 0
        self._failures = 0
        self._last: list[Failure] = []

    def add(self, batch: Batch) -> None:
        """Count one micro-batch.

        Raises:
            JobFailed: more than `limit` of the clips so far failed (of 100 at least, so that
                one bad clip at the start does not stop a job).
        """
        self._seen += int((batch.position != PADDING).sum())
        self._failures += len(batch.failures)
        self._last = [*self._last, *batch.failures][-5:]
        if self._failures <= self._limit * max(self._seen, LEAST_CLIPS):
            return
        named = "".join(f"\n    {f.shard} {f.key}: {f.reason}" for f in self._last)
        raise JobFailed(
            f"{self._failures} of {self._seen} clips could not be used, more than data.bad_limit"
            f" {self._limit:g}; the last:{named}",
            mend="mend or remove them (orchestrator data verify lists all), or raise"
            " data.bad_limit",
        )
