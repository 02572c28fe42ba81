"""Reading coded clips: from places in the indexes to arrow rows with their payloads."""

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

# Beside arrays: what says which rows of them belong to a clip.
_MEASURES = [("frames", pa.int64()), ("fps", pa.float64())]

_MAX_GAP_BYTES = 1 << 16
"""Bytes between a payload and its arrays that are rather read than skipped: a request to an
object store costs more."""


Payload = bytes  # a name of its own


class ClipIndex(Protocol):
    """What the feed needs of a dataset's index (`orchestrator.data.store.index.DatasetIndex`)."""

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
    """Some positions and where their clips lie; int64 arrays of one length."""

    position: np.ndarray
    source: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def from_order(cls, order: Order, position: np.ndarray) -> ClipLocations:
        """Look positions up in the order; padding lies nowhere (all -1)."""
        places = np.full((3, len(position)), PADDING, dtype=np.int64)
        real = position != PADDING
        draws = order.lookup(position[real])
        places[:, real] = draws.source, draws.shard, draws.row
        return cls(position, *places)

    def split(self, lengths: list[int]) -> list[ClipLocations]:
        """Consecutive spans of so many positions."""
        at = np.cumsum(lengths)[:-1]
        parts = (self.position, self.source, self.shard, self.row)
        return [
            ClipLocations(*cut) for cut in zip(*(np.split(part, at) for part in parts), strict=True)
        ]


class ClipReader:
    """Reads spans, shard by shard, keeping the row groups of the shards in use.

    Args:
        cached_row_groups: row groups kept per dataset; the order reads from one window of shards
            at a time, and from two where windows meet.
        arrays: names of the files beside a clip that come with it, each a column; `sha256` is
            then the index's word on all of it (`sidecar_arrays.combine_hashes`).
    """

    def __init__(
        self, indexes: Sequence[ClipIndex], cached_row_groups: int, arrays: Sequence[str] = ()
    ) -> None:
        self._indexes, self._keep, self._arrays = indexes, cached_row_groups, arrays
        self._columns, self._facts = _COLUMNS, _METADATA_SCHEMA
        if arrays:
            self._columns = [*_COLUMNS, *(name for name, _ in _MEASURES), "extras"]
            bodies = [(name, pa.binary()) for name in arrays]
            self._facts = pa.schema([*_METADATA_SCHEMA, *_MEASURES, *bodies])
        self._tables: list[OrderedDict[int, pa.Table]] = [OrderedDict() for _ in indexes]

    def read(self, locations: ClipLocations) -> pa.Table:
        """One row per position, in the span's order; columns as `ROW_SCHEMA`.

        A clip that cannot be read keeps its row with weight 0, no payload and the reason.
        Whether its bytes are those that were indexed, the assembler asks where they arrive.
        """
        rows: list[dict[str, Any]] = [dict(_PADDING_ROW) for _ in locations.position]
        # Within a shard by row, so that a tar is read forward.
        for at in np.lexsort((locations.row, locations.shard, locations.source)).tolist():
            if locations.position[at] != PADDING:
                rows[at] = self._read_clip(
                    int(locations.position[at]),
                    int(locations.source[at]),
                    int(locations.shard[at]),
                    int(locations.row[at]),
                )
        payloads = [row.pop("payload", None) for row in rows]
        table = pa.Table.from_pylist(rows, schema=self._facts)
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
        """The payload, and of the arrays those that are there: mostly one read for all."""
        index, offset, length = self._indexes[source], clip["offset"], clip["bytes"]
        extras = [e for name in self._arrays if (e := find_extra(clip, name))]
        places = [(offset, length), *((e["offset"], e["bytes"]) for e in extras)]
        first, end = min(at for at, _ in places), max(at + size for at, size in places)
        if not extras:
            return index.read_bytes(shard, offset, length), {}
        if end - first <= sum(size for _, size in places) + _MAX_GAP_BYTES:
            whole = memoryview(index.read_bytes(shard, first, end - first))
            parts = [whole[at - first : at - first + size] for at, size in places]
        else:
            parts = [memoryview(index.read_bytes(shard, at, size)) for at, size in places]
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
    """The payloads as a column, one chunk each, around the very bytes: video is not copied."""
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
