"""Writes the index of a dataset, one shard after another, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.index_files import (
    CLIP_SCHEMA,
    INDEX_FILE,
    SHARD_SCHEMA,
    SHARDS_FILE,
    ContentDigest,
)
from orchestrator.errors import DataError
from orchestrator.storage import Storage

SHARDS_PER_PART = 256
"""Row groups per parquet file: its footer stays below a megabyte."""

_SHARD_ROWS = 8192


@dataclass(frozen=True)
class IndexedShard:
    """One shard: its tar, and its clips as rows of `CLIP_SCHEMA`, in the order of the tar."""

    shard: str
    bytes: int
    sha256: str
    clips: list[dict[str, Any]]


def write_index(storage: Storage, shards: Iterable[IndexedShard]) -> DatasetIndex:
    """Write `index.parquet` and `shards.parquet` for `shards` and open the result.

    Up to `SHARDS_PER_PART` shards are written to one file, more to a folder of parts. Shards
    without clips are skipped.

    Raises:
        DataError: no shard has a clip.
    """
    filled = (shard for shard in shards if shard.clips)
    head = list(islice(filled, SHARDS_PER_PART + 1))
    if not head:
        raise DataError("no clip to index", where=storage.root)
    all_shards = chain(head, filled)
    digest, shard_rows, first = ContentDigest(), _ShardLines(), 0
    storage.delete_tree(INDEX_FILE)
    storage.delete(INDEX_FILE)
    while batch := _next_part(all_shards):
        name = (
            INDEX_FILE if len(head) <= SHARDS_PER_PART else f"{INDEX_FILE}/part-{first:09d}.parquet"
        )
        storage.write_bytes(name, _part_bytes(batch))
        for shard in batch:
            digest.add(len(shard.clips), shard.bytes, shard.sha256)
            shard_rows.add(shard)
        first += len(batch)
    storage.write_bytes(SHARDS_FILE, shard_rows.encode(digest.value()))
    return DatasetIndex.open(storage.root)


def _next_part(shards: Iterator[IndexedShard]) -> list[IndexedShard]:
    return list(islice(shards, SHARDS_PER_PART))


def _part_bytes(shards: list[IndexedShard]) -> memoryview:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, CLIP_SCHEMA, compression="zstd") as writer:
        for shard in shards:
            table = pa.Table.from_pylist(shard.clips, schema=CLIP_SCHEMA)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return memoryview(sink.getvalue())


class _ShardLines:
    """Collects the rows of shards.parquet as arrow tables, which bounds the memory of a million."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, shard: IndexedShard) -> None:
        seconds = [clip["duration_s"] for clip in shard.clips]
        self._rows.append(
            {
                "shard": shard.shard,
                "count": len(shard.clips),
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "seconds": sum(seconds),
                "shortest": min(seconds),
                "longest": max(seconds),
            }
        )
        if len(self._rows) >= _SHARD_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._rows, schema=SHARD_SCHEMA))
        self._rows = []

    def encode(self, digest: str) -> memoryview:
        self._flush()
        schema = SHARD_SCHEMA.with_metadata({"digest": digest, "layout": "1"})
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for table in self._tables:
                writer.write_table(table, row_group_size=_SHARD_ROWS)
        return memoryview(sink.getvalue())
