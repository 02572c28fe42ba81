"""The parquet files of a dataset's index: columns, reading, and the digest of the content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import RequestError
from orchestrator.storage import Storage

INDEX_FILE, SHARDS_FILE = "index.parquet", "shards.parquet"


CLIP_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        (
            "shard",
            pa.string(),
        ),  # path of the tar, relative to the dataset's folder or absolute, or a URI
        ("offset", pa.int64()),  # first byte of the payload in the tar
        ("bytes", pa.int64()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),  # average
        ("width", pa.int32()),  # upright, after rotation
        ("height", pa.int32()),
        ("duration_s", pa.float64()),
        ("sha256", pa.string()),  # of the payload
        ("source", pa.string()),
        ("codec", pa.string()),
        # Sidecar files with the same key: "json", "states.npy", ...
        (
            "extras",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("offset", pa.int64()),
                        ("bytes", pa.int64()),
                        # For actions and states only; missing in older indexes.
                        ("sha256", pa.string()),
                        ("width", pa.int64()),  # numbers per row
                    ]
                )
            ),
        ),
    ]
)

SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("count", pa.int64()),
        ("bytes", pa.int64()),  # of the tar
        ("sha256", pa.string()),  # of the tar
        ("seconds", pa.float64()),
        ("shortest", pa.float64()),  # seconds of the shortest clip
        ("longest", pa.float64()),
    ]
)

REQUIRED_COLUMNS = CLIP_SCHEMA.names[:11]


class ContentDigest:
    """Digest of a dataset's content: the clip counts, sizes and hashes of its shards, not names."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, count: int, size: int, sha256: str) -> None:
        self._hash.update(f"{count}:{size}:{sha256}\n".encode())

    def value(self) -> str:
        """16 hex digits."""
        return self._hash.hexdigest()[:16]


_PART = re.compile(r"part-(\d+)\.parquet$")


def open_parquet(storage: Storage, name: str) -> Any:
    """Open a parquet file.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        return pq.ParquetFile(storage.fs.open_input_file(storage.fs_path(name)))
    except (OSError, pa.ArrowException) as error:
        raise RequestError(
            f"cannot be read: {str(error).splitlines()[0]}",
            where=storage.uri(name),
            hint="restore the file, or pack again",
        ) from None


def read_column(file: Any, name: str) -> Iterator[np.ndarray]:
    """Read one column, one row group at a time, to bound the memory."""
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=[name], use_threads=False)[name].to_numpy()


def read_counts(file: Any) -> np.ndarray:
    """Clips per shard, int64 [shards], from `shards.parquet`."""
    counts = np.empty(file.metadata.num_rows, dtype=np.int64)
    at = 0
    for part in read_column(file, "count"):
        counts[at : at + len(part)] = part
        at += len(part)
    return counts


def list_parts(storage: Storage) -> tuple[list[int], list[str]]:
    """First shard and name of every file of `index.parquet`.

    Parts written by `index_writer` have their first shard in the name, so a folder of thousands is
    opened by listing it. For other names the footers are read.

    Raises:
        RequestError: the folder has no parquet file.
    """
    if not storage.is_dir(INDEX_FILE):
        return [0], [INDEX_FILE]
    names = [e.path for e in storage.files(INDEX_FILE) if e.path.endswith(".parquet")]
    if not names:
        raise RequestError(
            "the folder holds no parquet file", where=storage.uri(INDEX_FILE), hint="pack again"
        )
    matches = [_PART.search(name) for name in names]
    if all(matches):
        return [int(m.group(1)) for m in matches if m], names
    starts = [0]
    for name in names:
        starts.append(starts[-1] + open_parquet(storage, name).num_row_groups)
    return starts[:-1], names


def content_digest_of(file: Any) -> str:
    """The `ContentDigest` of the rows of `shards.parquet`."""
    digest = ContentDigest()
    for batch in file.iter_batches(columns=["count", "bytes", "sha256"]):
        for row in batch.to_pylist():
            digest.add(row["count"], row["bytes"], row["sha256"])
    return digest.value()
