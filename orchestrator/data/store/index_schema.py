"""What the files of a dataset's index hold, and the digest of its content."""

from __future__ import annotations

import hashlib

import pyarrow as pa

INDEX_FILE, SHARDS_FILE = "index.parquet", "shards.parquet"

CLIP_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # the tar: relative to the dataset's folder, or a full path or URI
        ("offset", pa.int64()),  # of the payload's first byte in the tar
        ("bytes", pa.int64()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),  # average
        ("width", pa.int32()),  # upright, after rotation
        ("height", pa.int32()),
        ("duration_s", pa.float64()),
        ("sha256", pa.string()),  # of the payload
        ("source", pa.string()),
        ("codec", pa.string()),
        # What stands beside the payload under the same key: "json", "states.npy", ...
        (
            "extras",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("offset", pa.int64()),
                        ("bytes", pa.int64()),
                        # Of actions and states only; older indexes lack both.
                        ("sha256", pa.string()),
                        ("width", pa.int64()),  # numbers of a row
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
        ("bytes", pa.int64()),  # of the whole tar
        ("sha256", pa.string()),  # of the whole tar
        ("seconds", pa.float64()),
        ("shortest", pa.float64()),  # seconds of the shortest clip
        ("longest", pa.float64()),
    ]
)
REQUIRED_COLUMNS = CLIP_SCHEMA.names[:11]


class ContentDigest:
    """Digest of a dataset's content: the shards' counts, sizes and hashes, not their names."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, count: int, size: int, sha256: str) -> None:
        self._hash.update(f"{count}:{size}:{sha256}\n".encode())

    def value(self) -> str:
        """16 hex digits."""
        return self._hash.hexdigest()[:16]
