"""Streaming through Ray Data in bounded legs, each a dataset split among the ranks.

A dataset of Ray Data has no state in its middle, so one dataset holds a leg: a run of steps
from the present position, whatever the epoch. Rank 0 builds the next leg while the present
one is read and hands its iterators to the other ranks halfway; every rank starts to read it
at once, into a bounded queue, so that no step waits where two legs meet.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.exceptions

from orchestrator.data.loader.clip_reader import ClipIndex, ClipLocations
from orchestrator.data.loader.order import Order
from orchestrator.data.loader.rank_assignment import RankAssignment
from orchestrator.data.loader.ray_datasource import IndexReaderCache, window_dataset
from orchestrator.errors import JobFailed, OrchestratorError

MAX_TASKS_PER_WINDOW = 2000
"""Read tasks of a leg: Ray Data keeps them all in the object store while the leg runs."""

MAX_WINDOW_BYTES = 1_000_000_000
"""Coded video of a leg. It is read as a whole, without backpressure: a leg that has to wait
for its consumers keeps Ray Data's scheduling loop spinning on a whole core (2.60)."""

OBJECT_STORE_SHARE = 1 / 6
"""Share of the object store that a leg may fill: two legs are alive where they meet, and what
is spilled is written to disk and read again."""

MIN_WINDOW_STEPS = 16
"""Steps of a leg at least, however many ranks there are."""

JOIN_TIMEOUT_S = 5.0
"""How long closing waits for a thread that reads."""

Broadcast = Callable[[Any], Any]


def steps_per_window(layout: RankAssignment, clip_bytes: float) -> int:
    """Steps of a leg: whole blocks, bounded in number and in bytes.

    It depends on the cluster's object store, so rank 0's answer must be everyone's.
    """
    step_bytes = layout.batch.global_batch * max(clip_bytes, 1)
    bounded = min(MAX_TASKS_PER_WINDOW / layout.blocks_per_step, MAX_WINDOW_BYTES / step_bytes)
    store = float(ray.cluster_resources().get("object_store_memory", float("inf")))
    steps = max(
        1, int(min(max(MIN_WINDOW_STEPS, bounded), store * OBJECT_STORE_SHARE / step_bytes))
    )
    return -(-steps // layout.steps_per_block) * layout.steps_per_block


class ReadWorkersLost(RuntimeError):
    """Processes of Ray's that read or deal clips are gone, with their node perhaps. A new start of
    the workers mends that; a mistake in the job or the data it is not."""


class WindowBuilder:
    """Rank 0's side: makes a leg's dataset and splits it, in a thread of its own."""

    def __init__(
        self,
        indexes: Sequence[ClipIndex],
        order: Order,
        layout: RankAssignment,
        shuffle_window: int,
        arrays: Sequence[str] = (),
    ) -> None:
        self._order, self._layout = order, layout
        self._library = IndexReaderCache(indexes, shuffle_window + 2, arrays)
        clips = sum(index.num_clips for index in indexes)
        self._clip_bytes = sum(index.num_bytes for index in indexes) / clips
        world = layout.batch.world
        # A quarter of the cores at most (reading is light), two at least.
        self._readers = min(2 * world, max(2, int(ray.cluster_resources()["CPU"] / 4)))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="legs")
        self._live_iterators: list[list[Any]] = []

    def submit(self, steps: range) -> Future[list[Any]]:
        """Begin to build a leg; the result is one iterator per rank."""
        return self._pool.submit(self._build, steps)

    def _build(self, steps: range) -> list[Any]:
        blocks = self._layout.block_positions(steps)
        spans = ClipLocations.from_order(self._order, np.concatenate(blocks)).split(
            [len(b) for b in blocks]
        )
        dataset = window_dataset(
            self._library,
            spans,
            self._clip_bytes,
            concurrency=self._readers,
        )
        iterators: list[Any] = dataset.streaming_split(self._layout.batch.world, equal=True)
        # The leg's coordinator lives as long as this process holds its handle. When a leg is
        # built, all ranks are done with the one before the last: they met to receive the last.
        self._live_iterators = [*self._live_iterators[-1:], iterators]
        return iterators

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._live_iterators.clear()


@dataclass
class _Failure:
    """What a thread says instead of its result."""

    error: BaseException


class WindowReader:
    """Reads one rank's share of one leg into a bounded queue, in a thread of its own."""

    def __init__(self, iterator: Any, expected_rows: int, queue_size: int) -> None:
        self._queue: queue.Queue[pa.Table | _Failure] = queue.Queue(maxsize=queue_size)
        self._iterator, self._rows, self._stopped = iterator, expected_rows, threading.Event()
        self._rest: pa.Table | None = None
        self._thread = threading.Thread(target=self._run, name="leg", daemon=True)
        self._thread.start()

    def read_rows(self, rows: int) -> pa.Table:
        """The next rows, out of as many blocks as it takes."""
        found = [] if self._rest is None else [self._rest]
        while sum(map(len, found)) < rows:
            item = self._queue.get()
            if isinstance(item, _Failure):
                raise item.error
            found.append(item)
        table = pa.concat_tables(found)
        self._rest = table.slice(rows) if len(table) > rows else None
        return table.slice(0, rows)

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until it has; not for ever, for it may itself wait for a rank that is gone."""
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        try:
            count = 0
            with closing(self._read()) as blocks:
                for block in blocks:
                    if not self._put(block):
                        return
                    count += len(block)
            if count != self._rows:
                raise JobFailed(f"a leg of {self._rows} rows ended after {count}")
        except BaseException as error:
            self._put(_Failure(_unwrap_ray_error(error)))

    def _read(self) -> Generator[pa.Table, None, None]:
        yield from self._iterator.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=2
        )

    def _put(self, item: pa.Table | _Failure) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class RayRowSource:
    """A rank's rows, leg after leg.

    Args:
        builder: on rank 0 only.
        broadcast: from rank 0, called by `prepare_step` at steps that all ranks know.
        window_steps: steps of a leg (`steps_per_window`), the same on every rank.
    """

    def __init__(
        self,
        steps: range,
        layout: RankAssignment,
        rank: int,
        broadcast: Broadcast,
        builder: WindowBuilder | None,
        window_steps: int,
    ) -> None:
        self._layout, self._rank, self._exchange = layout, rank, broadcast
        self._steps, self._length = steps, window_steps
        self._share = layout.batch.micro * layout.batch.accum
        self._next_window = steps[: self._length]
        self._handover_step = steps.start
        self._builder = builder
        self._pending_iterators = builder.submit(self._next_window) if builder and steps else None
        self._readers: queue.Queue[tuple[range, WindowReader]] = queue.Queue()
        self._all_readers: list[WindowReader] = []
        self._current: tuple[range, WindowReader] | None = None

    def prepare_step(self, step: int) -> None:
        """Called on the main thread before each step: receives the leg that is due."""
        if step != self._handover_step:
            return
        leg = self._next_window
        after = leg.stop - self._steps.start
        self._next_window = self._steps[after : after + self._length]
        # The leg after this one is handed over when half of this one is consumed.
        self._handover_step = leg[len(leg) // 2] if self._next_window else -1
        iterators = self._exchange(self._collect_iterators())
        if isinstance(iterators, _Failure):
            raise iterators.error
        # One step's blocks wait in the queue; the blocks before them wait with Ray.
        ahead = -(-self._share // self._layout.rows_per_block)
        iterator = ray.cloudpickle.loads(iterators)[self._rank]
        reader = WindowReader(iterator, len(leg) * self._share, ahead)
        self._all_readers = [*self._all_readers[-1:], reader]
        self._readers.put((leg, reader))

    def _collect_iterators(self) -> bytes | _Failure | None:
        """Rank 0: the iterators of the leg that is due, pickled; the next leg is begun."""
        if self._builder is None or self._pending_iterators is None:
            return None
        try:
            iterators: bytes = ray.cloudpickle.dumps(self._pending_iterators.result())
        except BaseException as error:
            # Every rank is told, or the others would wait for ever.
            return _Failure(_unwrap_ray_error(error))
        if self._next_window:
            self._pending_iterators = self._builder.submit(self._next_window)
        return iterators

    def rows_of_step(self, step: int) -> pa.Table:
        """The rank's rows of one step; called on the feed's own thread."""
        if self._current is None or step not in self._current[0]:
            self._current = self._readers.get()
        return self._current[1].read_rows(self._share)

    def close(self) -> None:
        for reader in self._all_readers:
            reader.stop()
        for reader in self._all_readers:
            reader.join()
        if self._builder is not None:
            self._builder.close()


def _unwrap_ray_error(error: BaseException) -> BaseException:
    """What went wrong in a reading task, without Ray's wrapping."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(error, ray.exceptions.RayError) and isinstance(cause, BaseException):
        return _unwrap_ray_error(cause)
    if isinstance(error, OrchestratorError) or not isinstance(error, ray.exceptions.RayError):
        return error
    first = str(error).strip().splitlines()[0]
    return ReadWorkersLost(f"reading clips failed: {first}")
