"""Streams the order through Ray Data in bounded windows of steps, each split among the ranks.

A Ray dataset cannot be resumed in its middle, so each dataset holds one window: consecutive steps
from the current one, across epochs. Rank 0 builds the next window while the current one is read
and broadcasts its iterators halfway through. Every rank starts to read it immediately, into a
bounded queue, so that no step waits at the beginning of a window.
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
"""Most read tasks of a window: Ray Data keeps all of them in the object store while it runs."""

MAX_WINDOW_BYTES = 1_000_000_000
"""Most bytes of encoded video in a window. It is read without backpressure: while a dataset waits
for its consumers, Ray Data's scheduling loop uses a full core (2.60)."""

OBJECT_STORE_SHARE = 1 / 6
"""Largest share of the object store that a window may fill: two windows exist at a time, and what
is spilled is written to disk and read again."""

MIN_WINDOW_STEPS = 16
"""Fewest steps of a window, however many ranks there are."""

JOIN_TIMEOUT_S = 5.0
"""Seconds that closing waits for a reading thread."""

Broadcast = Callable[[Any], Any]


def steps_per_window(rank_assignment: RankAssignment, clip_bytes: float) -> int:
    """Number of steps of a window: whole blocks, bounded in number and in bytes.

    It depends on the cluster's object store, so rank 0 must broadcast its result.

    Args:
        clip_bytes: estimated bytes of an encoded clip.
    """
    step_bytes = rank_assignment.batch.global_batch * max(clip_bytes, 1)
    bounded = min(
        MAX_TASKS_PER_WINDOW / rank_assignment.blocks_per_step, MAX_WINDOW_BYTES / step_bytes
    )
    store = float(ray.cluster_resources().get("object_store_memory", float("inf")))
    steps = max(
        1, int(min(max(MIN_WINDOW_STEPS, bounded), store * OBJECT_STORE_SHARE / step_bytes))
    )
    return -(-steps // rank_assignment.steps_per_block) * rank_assignment.steps_per_block


class ReadWorkersLost(RuntimeError):
    """Ray processes that read or distribute clips have died, perhaps with their node.

    Restarting the workers helps, since neither the job nor the data is at fault.
    """


class WindowBuilder:
    """Rank 0 only: builds the dataset of a window and splits it among the ranks, in a thread."""

    def __init__(
        self,
        indexes: Sequence[ClipIndex],
        order: Order,
        rank_assignment: RankAssignment,
        shuffle_window: int,
        arrays: Sequence[str] = (),
    ) -> None:
        self._order, self._rank_assignment = order, rank_assignment
        self._reader_cache = IndexReaderCache(indexes, shuffle_window + 2, arrays)
        clips = sum(index.num_clips for index in indexes)
        self._clip_bytes = sum(index.num_bytes for index in indexes) / clips
        world = rank_assignment.batch.world
        # At least two and at most a quarter of the cores: reading takes little CPU.
        self._readers = min(2 * world, max(2, int(ray.cluster_resources()["CPU"] / 4)))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="windows")
        self._live_iterators: list[list[Any]] = []

    def submit(self, steps: range) -> Future[list[Any]]:
        """Start to build the window of these steps; the result is one iterator per rank."""
        return self._pool.submit(self._build, steps)

    def _build(self, steps: range) -> list[Any]:
        blocks = self._rank_assignment.block_positions(steps)
        locations = ClipLocations.from_order(self._order, np.concatenate(blocks)).split(
            [len(b) for b in blocks]
        )
        dataset = window_dataset(
            self._reader_cache,
            locations,
            self._clip_bytes,
            concurrency=self._readers,
        )
        iterators: list[Any] = dataset.streaming_split(
            self._rank_assignment.batch.world, equal=True
        )
        # The split's coordinator actor lives as long as this process holds its handle. All ranks
        # have finished the window before the last one, since they have received the last one.
        self._live_iterators = [*self._live_iterators[-1:], iterators]
        return iterators

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._live_iterators.clear()


@dataclass
class _Failure:
    """An error, in place of a thread's result."""

    error: BaseException


class WindowReader:
    """Reads one rank's share of one window into a bounded queue, in its own thread."""

    def __init__(self, iterator: Any, expected_rows: int, queue_size: int) -> None:
        self._queue: queue.Queue[pa.Table | _Failure] = queue.Queue(maxsize=queue_size)
        self._iterator, self._rows, self._stopped = iterator, expected_rows, threading.Event()
        self._rest: pa.Table | None = None
        self._thread = threading.Thread(target=self._run, name="window", daemon=True)
        self._thread.start()

    def read_rows(self, rows: int) -> pa.Table:
        """The next `rows` rows, from as many blocks as needed."""
        blocks = [] if self._rest is None else [self._rest]
        while sum(map(len, blocks)) < rows:
            item = self._queue.get()
            if isinstance(item, _Failure):
                raise item.error
            blocks.append(item)
        table = pa.concat_tables(blocks)
        self._rest = table.slice(rows) if len(table) > rows else None
        return table.slice(0, rows)

    def stop(self) -> None:
        """Tell the thread to stop."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until the thread has stopped, at most `JOIN_TIMEOUT_S`: its rank may have died."""
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
                raise JobFailed(f"a window of {self._rows} rows ended after {count}")
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
    """A rank's rows, window after window.

    Args:
        steps: all steps of the training that are left.
        rank_assignment: which rows of a step belong to which rank.
        rank: this process's rank.
        broadcast: from rank 0; called by `prepare_step` at the same steps on every rank.
        builder: on rank 0 only.
        window_steps: steps of a window (`steps_per_window`), the same on every rank.
    """

    def __init__(
        self,
        steps: range,
        rank_assignment: RankAssignment,
        rank: int,
        broadcast: Broadcast,
        builder: WindowBuilder | None,
        window_steps: int,
    ) -> None:
        self._rank_assignment, self._rank, self._broadcast = rank_assignment, rank, broadcast
        self._steps, self._length = steps, window_steps
        self._share = rank_assignment.batch.micro * rank_assignment.batch.accum
        self._next_window = steps[: self._length]
        self._handover_step = steps.start
        self._builder = builder
        self._pending_iterators = builder.submit(self._next_window) if builder and steps else None
        self._readers: queue.Queue[tuple[range, WindowReader]] = queue.Queue()
        self._all_readers: list[WindowReader] = []
        self._current: tuple[range, WindowReader] | None = None

    def prepare_step(self, step: int) -> None:
        """Called on the main thread before each step: receives the next window when it is due."""
        if step != self._handover_step:
            return
        window = self._next_window
        num_done = window.stop - self._steps.start
        self._next_window = self._steps[num_done : num_done + self._length]
        # The window after this one is broadcast when half of this one has been trained on.
        self._handover_step = window[len(window) // 2] if self._next_window else -1
        iterators = self._broadcast(self._collect_iterators())
        if isinstance(iterators, _Failure):
            raise iterators.error
        # The queue holds the blocks of one step; further blocks stay in Ray's object store.
        queue_size = -(-self._share // self._rank_assignment.rows_per_block)
        iterator = ray.cloudpickle.loads(iterators)[self._rank]
        reader = WindowReader(iterator, len(window) * self._share, queue_size)
        self._all_readers = [*self._all_readers[-1:], reader]
        self._readers.put((window, reader))

    def _collect_iterators(self) -> bytes | _Failure | None:
        """Rank 0: the pickled iterators of the window that is due; starts to build the next one."""
        if self._builder is None or self._pending_iterators is None:
            return None
        try:
            iterators: bytes = ray.cloudpickle.dumps(self._pending_iterators.result())
        except BaseException as error:
            # Broadcast to every rank: the others would wait forever.
            return _Failure(_unwrap_ray_error(error))
        if self._next_window:
            self._pending_iterators = self._builder.submit(self._next_window)
        return iterators

    def rows_of_step(self, step: int) -> pa.Table:
        """The rank's rows of one step; called on the data loader's thread."""
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
    """The error of a reading task, without Ray's wrappers."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(error, ray.exceptions.RayError) and isinstance(cause, BaseException):
        return _unwrap_ray_error(cause)
    if isinstance(error, OrchestratorError) or not isinstance(error, ray.exceptions.RayError):
        return error
    first = str(error).strip().splitlines()[0]
    return ReadWorkersLost(f"reading clips failed: {first}")
