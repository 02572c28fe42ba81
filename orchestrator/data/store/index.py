"""The index of a dataset: the location of every clip in its tar, and its properties.

A dataset folder contains `index.parquet` (a file, or a folder of parts; one row group per shard,
in shard order) and `shards.parquet` (one row per shard: path, count, bytes, sha256, seconds).
Opening reads three numbers per shard; rows of clips are read one shard at a time, so memory does
not grow with the number of clips.
"""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from orchestrator.data.store.index_files import (
    INDEX_FILE,
    REQUIRED_COLUMNS,
    SHARD_SCHEMA,
    SHARDS_FILE,
    content_digest_of,
    list_parts,
    open_parquet,
    read_column,
    read_counts,
)
from orchestrator.errors import DataError, JobFailed, RequestError
from orchestrator.storage import Storage, is_remote, split_file_uri, with_retries

_MAX_OPEN_TARS = 8

T = TypeVar("T")


class DatasetIndex:
    """One dataset, packed or indexed in place. Pickled as its URI and totals.

    `num_clips`, `seconds` and `num_bytes` are totals; `digest` has 16 hex digits and depends on the
    content of the shards only, not on where they are.
    """

    def __init__(self, uri: str, digest: str, clips: int, seconds: float, size: int) -> None:
        self.uri, self.digest = uri, digest
        self.num_clips, self.seconds, self.num_bytes = clips, seconds, size
        self._reset()

    def _reset(self) -> None:
        self._storage = Storage(self.uri)
        self._counts: np.ndarray | None = None
        self._parts: tuple[list[int], list[str]] | None = None
        self._lock = threading.RLock()
        self._tables = _LRUCache(4)
        self._names = _LRUCache(4)
        self._tars = _LRUCache(_MAX_OPEN_TARS)
        self._shards_file: Any = None

    def __repr__(self) -> str:
        return f"Index({self.uri!r}, clips={self.num_clips}, digest={self.digest})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatasetIndex) and (self.uri, self.digest) == (
            other.uri,
            other.digest,
        )

    def __hash__(self) -> int:
        return hash((self.uri, self.digest))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @classmethod
    def open(cls, uri: str) -> DatasetIndex:
        """Open the dataset folder at `uri`.

        Raises:
            RequestError: there is no dataset at `uri`, or its files cannot be read.
            DataError: `index.parquet` and `shards.parquet` do not belong together.
        """
        storage = Storage(uri)
        missing = [name for name in (INDEX_FILE, SHARDS_FILE) if not storage.exists(name)]
        if missing:
            raise RequestError(
                f"no dataset here: {' and '.join(missing)} missing",
                where=uri,
                hint="name a folder that `kind: pack` has written",
            )
        file = open_parquet(storage, SHARDS_FILE)
        absent = [c for c in SHARD_SCHEMA.names[:4] if c not in file.schema_arrow.names]
        if absent:
            raise DataError(f"columns missing: {', '.join(absent)}", where=storage.uri(SHARDS_FILE))
        has_seconds = "seconds" in file.schema_arrow.names
        counts = read_counts(file)
        meta = file.schema_arrow.metadata or {}
        digest = meta[b"digest"].decode() if b"digest" in meta else content_digest_of(file)
        seconds = (
            sum(float(np.sum(c)) for c in read_column(file, "seconds")) if has_seconds else 0.0
        )
        size = sum(int(np.sum(c)) for c in read_column(file, "bytes"))
        index = cls(storage.root, digest, int(counts.sum()), seconds, size)
        index._counts = counts
        index._check_parts()
        if not has_seconds:
            index.seconds = index._count_seconds()
        return index

    @property
    def clips_per_shard(self) -> np.ndarray:
        """int64 [shards]: clips per shard, in shard order."""
        if self._counts is None:
            self._counts = read_counts(open_parquet(self._storage, SHARDS_FILE))
        return self._counts

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.clips_per_shard)

    def shard_rows(self, shard: int) -> pa.Table:
        """The clips of one shard, in the order of the tar; columns as `CLIP_SCHEMA`.

        Raises:
            DataError: the row group is missing or does not have the shard's number of clips.
        """
        part, group = self._row_group_of(shard)
        with self._lock:
            file = self._tables.get(part, lambda: open_parquet(self._storage, part))
            if group >= file.num_row_groups:
                raise DataError(
                    f"no row group for shard {shard}",
                    where=self._storage.uri(part),
                    hint="index.parquet and shards.parquet do not belong together; pack again",
                )
            table = self._read_with_retries(
                lambda: file.read_row_group(group, use_threads=False), lambda: self.uri
            )
        if table.num_rows != self.clips_per_shard[shard]:
            raise DataError(
                f"shard {shard} has {table.num_rows} rows, shards.parquet says"
                f" {self.clips_per_shard[shard]}",
                where=self._storage.uri(part),
                hint="index.parquet and shards.parquet do not belong together; pack again",
            )
        return table

    def duration_range(self) -> tuple[float, float]:
        """Duration in seconds of the shortest and of the longest clip."""
        file = open_parquet(self._storage, SHARDS_FILE)
        if {"shortest", "longest"} <= set(file.schema_arrow.names):
            shortest = min(float(np.min(c)) for c in read_column(file, "shortest"))
            return shortest, max(float(np.max(c)) for c in read_column(file, "longest"))
        seconds = [s.to_numpy() for s in self._all_seconds()]
        return float(min(map(np.min, seconds))), float(max(map(np.max, seconds)))

    def shard_info(self, shard: int) -> dict[str, Any]:
        """The row of shards.parquet: shard, count, bytes, sha256, seconds."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of {self.num_shards}")
        with self._lock:
            if self._shards_file is None:
                self._shards_file = open_parquet(self._storage, SHARDS_FILE)
            file, group, row = self._shards_file, 0, shard
            while row >= file.metadata.row_group(group).num_rows:
                row -= file.metadata.row_group(group).num_rows
                group += 1
            table = self._names.get(group, lambda: file.read_row_group(group, use_threads=False))
        info: dict[str, Any] = table.slice(row, 1).to_pylist()[0]
        return info

    def tar_uri(self, shard: int) -> str:
        """Full path or URI of a shard's tar."""
        return self.resolve_tar_uri(str(self.shard_info(shard)["shard"]))

    def resolve_tar_uri(self, name: str) -> str:
        """Full path or URI of the tar in a row's `shard` column."""
        return name if is_remote(name) or name.startswith("/") else self._storage.uri(name)

    def read_bytes(self, shard: int, offset: int, length: int, sha256: str | None = None) -> bytes:
        """`length` payload bytes from `offset` of the shard's tar.

        Raises:
            DataError: the tar is missing, shorter than the index says, or (with `sha256`) contains
                other bytes than were indexed.
            JobFailed: the object store did not answer for minutes.
        """
        try:
            payload = self._read_with_retries(
                lambda: self._read_tar(shard, offset, length), lambda: self.tar_uri(shard)
            )
        except OSError as error:
            raise DataError(
                f"cannot read {length} bytes: {error}", where=self.tar_uri(shard)
            ) from None
        if len(payload) != length:
            raise DataError(
                f"the tar ends {length - len(payload)} bytes before the clip at {offset} does",
                where=self.tar_uri(shard),
                hint="the index does not match its tars: restore the tar or index it again",
            )
        if sha256 is not None and hashlib.sha256(payload).hexdigest() != sha256:
            raise DataError(
                f"the clip at {offset} is not the one that was indexed (sha256 differs)",
                where=self.tar_uri(shard),
                hint="the index does not match its tars: restore the tar or index it again",
            )
        return payload

    def close(self) -> None:
        """Close all open files; the index opens them again when it is used."""
        with self._lock:
            for cache in (self._tables, self._names, self._tars):
                cache.clear()

    def _read_tar(self, shard: int, offset: int, length: int) -> bytes:
        with self._lock:
            file = self._tars.get(shard, lambda: self._open_tar(shard))
        return bytes(file.read_at(length, offset))

    def _open_tar(self, shard: int) -> Any:
        uri = self.tar_uri(shard)
        storage, name = split_file_uri(uri)
        try:
            return storage.fs.open_input_file(storage.fs_path(name))
        except OSError as error:
            if storage.is_remote and not isinstance(error, FileNotFoundError):
                raise
            raise DataError(
                f"cannot open the tar: {error}", where=uri, hint="restore it or index again"
            ) from None

    def _read_with_retries(self, call: Callable[[], T], where: Callable[[], str]) -> T:
        """The result of `call`, retried while an object store fails; errors of disks are raised."""
        try:
            return call()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or not is_remote(where()):
                raise
        try:
            return with_retries(call)
        except OSError as error:
            raise JobFailed(
                f"the storage does not answer: {str(error).splitlines()[0]}",
                where=where(),
                hint="run the same command again once it does: it continues",
            ) from None

    def _row_group_of(self, shard: int) -> tuple[str, int]:
        """The parquet file with a shard's rows, and the row group in it."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of {self.num_shards}")
        starts, names = self._part_table()
        at = bisect.bisect_right(starts, shard) - 1
        return names[at], shard - starts[at]

    def _part_table(self) -> tuple[list[int], list[str]]:
        if self._parts is None:
            self._parts = list_parts(self._storage)
        return self._parts

    def _check_parts(self) -> None:
        starts, names = self._part_table()
        last = open_parquet(self._storage, names[-1])
        absent = [c for c in REQUIRED_COLUMNS if c not in last.schema_arrow.names]
        if absent:
            raise DataError(
                f"columns missing: {', '.join(absent)}", where=self._storage.uri(names[-1])
            )
        if starts[-1] + last.num_row_groups != self.num_shards:
            raise DataError(
                f"{starts[-1] + last.num_row_groups} row groups, but shards.parquet lists"
                f" {self.num_shards} shards",
                where=self._storage.uri(INDEX_FILE),
                hint="index.parquet and shards.parquet do not belong together; pack again",
            )

    def _count_seconds(self) -> float:
        return float(sum(np.sum(column.to_numpy()) for column in self._all_seconds()))

    def _all_seconds(self) -> Iterator[Any]:
        for name in self._part_table()[1]:
            file = open_parquet(self._storage, name)
            yield file.read(columns=["duration_s"])["duration_s"]


class _LRUCache:
    """Keeps the most recently used items."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._items:
            self._items[key] = make()
            # Dropping the reference closes the file when no thread reads it any more.
            if len(self._items) > self._size:
                self._items.popitem(last=False)
        self._items.move_to_end(key)
        item: T = self._items[key]
        return item

    def clear(self) -> None:
        self._items.clear()
