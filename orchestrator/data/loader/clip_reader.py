"""Reads encoded clips from tars: from locations in the indexes to arrow rows with payloads."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.store.sidecar_arrays import expected_content_hash, find_extra
from orchestrator.errors import DataError

ROW_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),  # -1 for padding
        ("weight", pa.float32()),  # 0 for padding and for clips that cannot be read
        ("key", pa.string()),
        ("shard", pa.string()),
        ("sha256", pa.string()),
        ("duration_s", pa.float64()),
        ("reason", pa.string()),  # why the weight of a clip is 0
        ("payload", pa.large_binary()),
    ]
)

_METADATA_SCHEMA = ROW_SCHEMA.remove(ROW_SCHEMA.get_field_index("payload"))
_COLUMNS = ["key", "shard", "offset", "bytes", "duration_s", "sha256"]
_PADDING_ROW = {"position": PADDING, "weight": 0.0, "key": "", "shard": "", "sha256": ""}

# Read with arrays only: they decide which rows of the arrays belong to a clip.
_MEASURES = [("frames", pa.int64()), ("fps", pa.float64())]

_MAX_GAP_BYTES = 1 << 16
"""Largest number of bytes between a payload and its arrays that are read rather than skipped by a
second request, which costs more on an object store."""


Payload = bytes


class ClipIndex(Protocol):
    """The part of a dataset's index that a data loader needs (`data.store.index.DatasetIndex`)."""

    num_clips: int
    num_bytes: int

    @property
    def clips_per_shard(self) -> np.ndarray:
        """int64 [shards]: clips per shard."""

    def shard_rows(self, shard: int) -> pa.Table:
        """The clips of a shard."""

    def read_bytes(
        self, shard: int, offset: int, length: int, sha256: str | None = None
    ) -> Payload:
        """A payload, checked against its hash."""


@dataclass(frozen=True)
class ClipLocations:
    """Some positions of the order and the locations of their clips; int64 arrays of one length."""

    position: np.ndarray
    source: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def from_order(cls, order: Order, position: np.ndarray) -> ClipLocations:
        """Look positions up in the order; padding has the location (-1, -1, -1)."""
        locations = np.full((3, len(position)), PADDING, dtype=np.int64)
        is_clip = position != PADDING
        draws = order.lookup(position[is_clip])
        locations[:, is_clip] = draws.source, draws.shard, draws.row
        return cls(position, *locations)

    def split(self, lengths: list[int]) -> list[ClipLocations]:
        """Split into consecutive parts of these lengths."""
        boundaries = np.cumsum(lengths)[:-1]
        parts = (self.position, self.source, self.shard, self.row)
        return [
            ClipLocations(*columns)
            for columns in zip(*(np.split(part, boundaries) for part in parts), strict=True)
        ]


class ClipReader:
    """Reads clips, shard by shard, caching the row groups of the shards in use.

    Args:
        indexes: one per source.
        cached_row_groups: row groups cached per dataset; the order reads from one window of shards
            at a time, and from two at the end of a window.
        arrays: file names of the sidecar arrays to read, each a column; the column `sha256` is
            then the combined hash of payload and arrays (`sidecar_arrays.combine_hashes`).
    """

    def __init__(
        self, indexes: Sequence[ClipIndex], cached_row_groups: int, arrays: Sequence[str] = ()
    ) -> None:
        self._indexes, self._keep, self._arrays = indexes, cached_row_groups, arrays
        self._columns, self._schema = _COLUMNS, _METADATA_SCHEMA
        if arrays:
            self._columns = [*_COLUMNS, *(name for name, _ in _MEASURES), "extras"]
            bodies = [(name, pa.binary()) for name in arrays]
            self._schema = pa.schema([*_METADATA_SCHEMA, *_MEASURES, *bodies])
        self._tables: list[OrderedDict[int, pa.Table]] = [OrderedDict() for _ in indexes]

    def read(self, locations: ClipLocations) -> pa.Table:
        """Read one row per position, in the order of `locations`; columns as `ROW_SCHEMA`.

        A clip that cannot be read keeps its row, with weight 0, no payload and the reason. Hashes
        are checked later, by the decoder.
        """
        rows: list[dict[str, Any]] = [dict(_PADDING_ROW) for _ in locations.position]
        # By row within a shard, so that a tar is read forward.
        for i in np.lexsort((locations.row, locations.shard, locations.source)).tolist():
            if locations.position[i] != PADDING:
                rows[i] = self._read_clip(
                    int(locations.position[i]),
                    int(locations.source[i]),
                    int(locations.shard[i]),
                    int(locations.row[i]),
                )
        payloads = [row.pop("payload", None) for row in rows]
        table = pa.Table.from_pylist(rows, schema=self._schema)
        return table.append_column(ROW_SCHEMA.field("payload"), _zero_copy_column(payloads))

    def _read_clip(self, position: int, source: int, shard: int, row: int) -> dict[str, Any]:
        clip: dict[str, Any] = {
            "position": position,
            "weight": 0.0,
            "key": f"clip {row}",
            "shard": f"shard {shard}",
            "sha256": "",
        }
        try:
            table = self._table(source, shard)
            clip |= {name: table[name][row].as_py() for name in self._columns}
            payload, arrays = self._read(source, shard, clip)
            clip["sha256"] = expected_content_hash(clip, self._arrays, lambda e: arrays[e["name"]])
        except DataError as error:
            return {**clip, "reason": f"{error.where}: {error.what}" if error.where else error.what}
        return {**clip, **arrays, "weight": 1.0, "payload": payload}

    def _read(
        self, source: int, shard: int, clip: dict[str, Any]
    ) -> tuple[Payload | memoryview, dict[str, bytes]]:
        """Read the payload and the existing arrays, with one request if they are close together."""
        index, offset, length = self._indexes[source], clip["offset"], clip["bytes"]
        extras = [e for name in self._arrays if (e := find_extra(clip, name))]
        ranges = [(offset, length), *((e["offset"], e["bytes"]) for e in extras)]
        first, end = min(start for start, _ in ranges), max(start + size for start, size in ranges)
        if not extras:
            return index.read_bytes(shard, offset, length), {}
        if end - first <= sum(size for _, size in ranges) + _MAX_GAP_BYTES:
            block = memoryview(index.read_bytes(shard, first, end - first))
            parts = [block[start - first : start - first + size] for start, size in ranges]
        else:
            parts = [memoryview(index.read_bytes(shard, start, size)) for start, size in ranges]
        return parts[0], {e["name"]: bytes(p) for e, p in zip(extras, parts[1:], strict=True)}

    def _table(self, source: int, shard: int) -> pa.Table:
        tables = self._tables[source]
        if shard not in tables:
            tables[shard] = self._indexes[source].shard_rows(shard).select(self._columns)
            if len(tables) > self._keep:
                tables.popitem(last=False)
        tables.move_to_end(shard)
        return tables[shard]


def _zero_copy_column(payloads: list[Payload | memoryview | None]) -> pa.ChunkedArray:
    """The payloads as a column of one chunk each, which refers to their bytes without a copy."""
    kind = ROW_SCHEMA.field("payload").type
    chunks = [
        pa.nulls(1, kind)
        if data is None
        else pa.Array.from_buffers(
            kind, 1, [None, pa.py_buffer(struct.pack("<qq", 0, len(data))), pa.py_buffer(data)]
        )
        for data in payloads
    ]
    return pa.chunked_array(chunks, kind)
