"""The data loader: one rank's batches, step after step, decoded in parallel with training."""

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
"""Fewest clips over which the share of failures is computed."""


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
    """Open one rank's data loader for steps `start_step` to `optim.steps` - 1.

    Args:
        prepared: the job's datasets and their weights.
        batch: sizes of batches and micro-batches.
        threads: clips that this rank decodes at a time.
        broadcast: returns rank 0's argument on every rank; called here and in `next` at the same
            steps on every rank. None: read and decode in this process, without Ray.

    Raises:
        RequestError: a source without clips.
    """
    indexes, arrays = prepared.indexes, required_arrays(job.data)
    counts = [index.clips_per_shard for index in indexes]
    order = Order.from_job(job, counts, prepared.weights)
    clip_bytes = estimate_clip_bytes(indexes, len(job.data.buckets))
    rank_assignment = RankAssignment.for_clip_size(batch, clip_bytes)
    steps = range(start_step, job.optim.steps)
    source: RowSource
    if broadcast is None:
        source = LocalRowSource(
            ClipReader(indexes, job.data.window + 2, arrays), order, rank_assignment, rank
        )
    else:
        from orchestrator.data.loader.stream_windows import (
            RayRowSource,
            WindowBuilder,
            steps_per_window,
        )

        builder = None
        if rank == 0:
            builder = WindowBuilder(indexes, order, rank_assignment, job.data.window, arrays)
        window_steps = broadcast(steps_per_window(rank_assignment, clip_bytes))
        source = RayRowSource(steps, rank_assignment, rank, broadcast, builder, window_steps)
    specs, in_subprocesses = SpecLookup(job, order), broadcast is not None
    assembler = BatchAssembler(job, specs, batch.micro, threads, in_subprocesses=in_subprocesses)
    return ClipDataLoader(
        steps, rank_assignment, rank, source, assembler, job.data.prefetch, job.data.bad_limit
    )


def estimate_clip_bytes(indexes: Sequence[ClipIndex], buckets: int) -> float:
    """Estimated bytes of an encoded clip: the mean over all sources.

    With several buckets it is the largest mean of a source: images are many and small, and blocks
    of the right size for them would be far too large in a step of videos.

    Args:
        buckets: number of clip shapes of the job.
    """
    if buckets == 1:
        return sum(index.num_bytes for index in indexes) / sum(index.num_clips for index in indexes)
    return max(index.num_bytes / index.num_clips for index in indexes)


class RowSource(Protocol):
    """Gives a rank its rows of each step."""

    def prepare_step(self, step: int) -> None:
        """Called on the main thread before each step."""

    def rows_of_step(self, step: int) -> pa.Table:
        """The rank's rows of a step; called on the data loader's thread, steps ascending."""

    def close(self) -> None:
        """Stop background work."""


class LocalRowSource:
    """Reads a rank's rows in this process."""

    def __init__(
        self, reader: ClipReader, order: Order, rank_assignment: RankAssignment, rank: int
    ) -> None:
        self._reader, self._order, self._rank_assignment, self._rank = (
            reader,
            order,
            rank_assignment,
            rank,
        )

    def prepare_step(self, step: int) -> None:
        """Nothing to do."""

    def rows_of_step(self, step: int) -> pa.Table:
        return self._reader.read(
            ClipLocations.from_order(
                self._order, self._rank_assignment.rank_positions(step, self._rank)
            )
        )

    def close(self) -> None:
        """Nothing to stop."""


class ClipDataLoader:
    """Iterates over `StepBatch`; a thread decodes `prefetch` steps ahead.

    `next` raises JobFailed if more clips failed than `bad_limit` allows, or if Ray delivered rows
    that do not belong to this rank and step.
    """

    def __init__(
        self,
        steps: range,
        rank_assignment: RankAssignment,
        rank: int,
        row_source: RowSource,
        assembler: BatchAssembler,
        prefetch: int,
        bad_limit: float,
    ) -> None:
        self._steps, self._rank_assignment, self._rank = steps, rank_assignment, rank
        self._source, self._assembler = row_source, assembler
        self._failures = FailureLimit(bad_limit)
        self._upcoming = iter(steps)
        self._prefetch_slots = threading.Semaphore(prefetch)
        self._pending: queue.Queue[list[PendingBatch] | BaseException] = queue.Queue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="data-loader", daemon=True)

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
        """Stop the threads; steps that are being decoded are dropped."""
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
                check_rank_positions(self._rank_assignment, step, self._rank, rows)
                self._pending.put(self._assembler.start_step(step, rows))
        except BaseException as error:
            self._pending.put(error)


def check_rank_positions(
    rank_assignment: RankAssignment, step: int, rank: int, rows: pa.Table
) -> None:
    """Check that a rank got its rows of a step: Ray Data's split must not change the order.

    Raises:
        JobFailed: the positions differ from those assigned to the rank.
    """
    expected, got = rank_assignment.rank_positions(step, rank), rows["position"].to_numpy()
    if not np.array_equal(expected, got):
        raise JobFailed(
            f"rank {rank} got positions {got.tolist()} at step {step}, not {expected.tolist()}",
            hint="this is a bug of the data loader or of this version of Ray; please report it",
        )


class FailureLimit:
    """Counts clips that could not be used, and fails the job if there are too many."""

    def __init__(self, limit: float) -> None:
        self._limit, self._num_clips = limit, 0
        self._failures = 0
        self._recent_failures: list[ClipFailure] = []

    def add(self, batch: Batch) -> None:
        """Count the clips of one micro-batch.

        Raises:
            JobFailed: the share of clips that failed so far is above the limit (over at least
                `MIN_CLIPS_FOR_FAILURE_RATE` clips, so that one bad clip at the start is allowed).
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
            hint="repair or remove them (orchestrator data verify lists all), or raise"
            " data.bad_limit",
        )
