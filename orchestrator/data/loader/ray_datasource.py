"""A window of the order as a Ray dataset: encoded clips in blocks of one size, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    ConcurrencyCapBackpressurePolicy,
)
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from orchestrator.data.loader.clip_reader import ClipIndex, ClipLocations, ClipReader
from orchestrator.errors import JobFailed


class ClipDatasource(Datasource):  # type: ignore[misc]
    """Ray Datasource with exactly one read task per block."""

    def __init__(
        self, reader_cache: IndexReaderCache, spans: list[ClipLocations], clip_bytes: float
    ) -> None:
        super().__init__()
        self._reader_cache, self._spans, self._clip_bytes = reader_cache, spans, clip_bytes

    def get_name(self) -> str:
        return "Clips"

    def estimate_inmemory_data_size(self) -> int:
        return int(sum(len(span.position) for span in self._spans) * self._clip_bytes)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_read, self._reader_cache, span),
                BlockMetadata(
                    num_rows=len(span.position),
                    size_bytes=int(len(span.position) * self._clip_bytes),
                    exec_stats=None,
                    input_files=None,
                ),
            )
            for span in self._spans
        ]


class IndexReaderCache:
    """Gives reading processes a `ClipReader`: indexes are stored once, opened once per process."""

    _readers: dict[str, ClipReader] = {}  # noqa: RUF012  (one per process, never pickled)

    def __init__(
        self, indexes: Sequence[ClipIndex], cached_row_groups: int, arrays: Sequence[str] = ()
    ) -> None:
        self._indexes = ray.put(list(indexes))
        self._row_groups, self._arrays = cached_row_groups, tuple(arrays)

    def get(self) -> ClipReader:
        """This process's reader, which keeps its files open."""
        name = self._indexes.hex()
        if name not in self._readers:
            self._readers.clear()  # those of an earlier job: Ray reuses processes
            self._readers[name] = ClipReader(self._fetch(), self._row_groups, self._arrays)
        return self._readers[name]

    def _fetch(self) -> list[ClipIndex]:
        try:
            indexes: list[ClipIndex] = ray.get(self._indexes)
        except ray.exceptions.RaySystemError as error:
            # Ray silently retries a task that ends in a system error forever.
            last = str(error).strip().splitlines()[-1]
            raise JobFailed(f"a reading process cannot open the datasets: {last}") from None
        return indexes


def _read(reader_cache: IndexReaderCache, span: ClipLocations) -> Iterable[pa.Table]:
    return [reader_cache.get().read(span)]


def window_dataset(
    reader_cache: IndexReaderCache,
    spans: list[ClipLocations],
    clip_bytes: float,
    *,
    concurrency: int,
) -> Any:
    """Build a `ray.data.Dataset` with one block per element of `spans`, in that order.

    Args:
        reader_cache: used by the read tasks.
        spans: locations of the clips of each block.
        clip_bytes: estimated bytes of an encoded clip.
        concurrency: read tasks that run at a time. They reserve no CPU: they wait for disks and
            networks, and must run even if the trainers have reserved every core.
    """
    dataset = ray.data.read_datasource(
        ClipDatasource(reader_cache, spans, clip_bytes),
        num_cpus=0,
        concurrency=concurrency,
        override_num_blocks=len(spans),
    )
    # This context is a copy: other datasets of this process keep their settings.
    context = dataset.context
    # Without a target size, the output of a task is one block, whatever its size in bytes.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # Windows are bounded by `steps_per_window` and read without waiting: under Ray's own memory
    # budget its scheduling loop uses a full core while it waits for slow consumers (2.60).
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [ConcurrencyCapBackpressurePolicy])
    return dataset
