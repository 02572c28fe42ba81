"""A leg of the order as a Ray dataset: coded clips in blocks of one size, in order."""

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
    """One read task per block, and one block per read task."""

    def __init__(
        self, reader_cache: IndexReaderCache, spans: list[ClipLocations], clip_bytes: float
    ) -> None:
        super().__init__()
        self._library, self._spans, self._clip_bytes = reader_cache, spans, clip_bytes

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
                partial(_read, self._library, span),
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
    """The indexes, put into the object store once, and opened once per reading process."""

    _readers: dict[str, ClipReader] = {}  # noqa: RUF012  (a process's own, never pickled)

    def __init__(
        self, indexes: Sequence[ClipIndex], cached_row_groups: int, arrays: Sequence[str] = ()
    ) -> None:
        self._indexes = ray.put(list(indexes))
        self._row_groups, self._arrays = cached_row_groups, tuple(arrays)

    def get(self) -> ClipReader:
        """This process's reader, with what it has open."""
        name = self._indexes.hex()
        if name not in self._readers:
            self._readers.clear()  # an earlier job's, in a process that Ray uses again
            self._readers[name] = ClipReader(self._fetch(), self._row_groups, self._arrays)
        return self._readers[name]

    def _fetch(self) -> list[ClipIndex]:
        try:
            indexes: list[ClipIndex] = ray.get(self._indexes)
        except ray.exceptions.RaySystemError as error:
            # Ray repeats a task that ends in a system error for ever, without a word.
            last = str(error).strip().splitlines()[-1]
            raise JobFailed(f"a reading process cannot open the datasets: {last}") from None
        return indexes


def _read(library: IndexReaderCache, span: ClipLocations) -> Iterable[pa.Table]:
    return [library.get().read(span)]


def window_dataset(
    reader_cache: IndexReaderCache,
    spans: list[ClipLocations],
    clip_bytes: float,
    *,
    concurrency: int,
) -> Any:
    """A `ray.data.Dataset` of one block per span, in their order.

    Args:
        concurrency: read tasks that run at a time. They reserve no CPU: they wait for disks and
            networks, and must go on where the trainers have reserved every core.
    """
    dataset = ray.data.read_datasource(
        ClipDatasource(reader_cache, spans, clip_bytes),
        num_cpus=0,
        concurrency=concurrency,
        override_num_blocks=len(spans),
    )
    # The dataset's own copy: other datasets of this process keep their settings.
    context = dataset.context
    # Without a target, what a task yields becomes one block, whatever its size in bytes.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # A leg is bounded by us, and read as a whole: under Ray's own budget its loop, waiting for
    # consumers that take their time, spins on a core (2.60).
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [ConcurrencyCapBackpressurePolicy])
    return dataset
