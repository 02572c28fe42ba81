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
from orchestrator.data.store.sidecar_arrays import extra_of, promised_hash
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

_FACTS = ROW_SCHEMA.remove(ROW_SCHEMA.get_field_index("payload"))
_COLUMNS = ["key", "shard", "offset", "bytes", "duration_s", "sha256"]
_PAD = {"position": PADDING, "weight": 0.0, "key": "", "shard": "", "sha256": ""}

# Beside arrays: what says which rows of them belong to a clip.
_MEASURES = [("frames", pa.int64()), ("fps", pa.float64())]

_GAP = 1 << 16
"""Bytes between a payload and its arrays that are rather read than skipped: a request to an
object store costs more."""


Payload = bytes  # a name of its own: `Clips.bytes` is a number


class Clips(Protocol):
    """What the feed needs of a dataset's index (`orchestrator.data.store.index.Index`)."""

    clips: int
    bytes: int

    @property
    def counts(self) -> np.ndarray:
        """int64 [shards]: clips per shard."""

    def rows(self, shard: int) -> pa.Table:
        """The clips of a shard."""

    def read(self, shard: int, offset: int, length: int, sha256: str | None = None) -> Payload:
        """A payload, checked against its hash."""


@dataclass(frozen=True)
class Span:
    """Some positions and where their clips lie; int64 arrays of one length."""

    position: np.ndarray
    source: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, order: Order, position: np.ndarray) -> Span:
        """Look positions up in the order; padding lies nowhere (all -1)."""
        places = np.full((3, len(position)), PADDING, dtype=np.int64)
        real = position != PADDING
        draws = order.at(position[real])
        places[:, real] = draws.source, draws.shard, draws.row
        return cls(position, *places)

    def split(self, lengths: list[int]) -> list[Span]:
        """Consecutive spans of so many positions."""
        at = np.cumsum(lengths)[:-1]
        parts = (self.position, self.source, self.shard, self.row)
        return [Span(*cut) for cut in zip(*(np.split(part, at) for part in parts), strict=True)]


class ClipReader:
    """Reads spans, shard by shard, keeping the row groups of the shards in use.

    Args:
        row_groups: row groups kept per dataset; the order reads from one window of shards
            at a time, and from two where windows meet.
        arrays: names of the files beside a clip that come with it, each a column; `sha256` is
            then the index's word on all of it (`arrays.joined_hash`).
    """

    def __init__(
        self, indexes: Sequence[Clips], row_groups: int, arrays: Sequence[str] = ()
    ) -> None:
        self._indexes, self._keep, self._arrays = indexes, row_groups, arrays
        self._columns, self._facts = _COLUMNS, _FACTS
        if arrays:
            self._columns = [*_COLUMNS, *(name for name, _ in _MEASURES), "extras"]
            bodies = [(name, pa.binary()) for name in arrays]
            self._facts = pa.schema([*_FACTS, *_MEASURES, *bodies])
        self._tables: list[OrderedDict[int, pa.Table]] = [OrderedDict() for _ in indexes]

    def read(self, span: Span) -> pa.Table:
        """One row per position, in the span's order; columns as `ROW_SCHEMA`.

        A clip that cannot be read keeps its row with weight 0, no payload and the reason.
        Whether its bytes are those that were indexed, the assembler asks where they arrive.
        """
        rows: list[dict[str, Any]] = [dict(_PAD) for _ in span.position]
        # Within a shard by row, so that a tar is read forward.
        for at in np.lexsort((span.row, span.shard, span.source)).tolist():
            if span.position[at] != PADDING:
                rows[at] = self._clip(
                    int(span.position[at]),
                    int(span.source[at]),
                    int(span.shard[at]),
                    int(span.row[at]),
                )
        payloads = [row.pop("payload", None) for row in rows]
        table = pa.Table.from_pylist(rows, schema=self._facts)
        return table.append_column(ROW_SCHEMA.field("payload"), _uncopied(payloads))

    def _clip(self, position: int, source: int, shard: int, row: int) -> dict[str, Any]:
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
            clip["sha256"] = promised_hash(clip, self._arrays, lambda e: arrays[e["name"]])
        except DataError as error:
            return {**clip, "reason": f"{error.where}: {error.what}" if error.where else error.what}
        return {**clip, **arrays, "weight": 1.0, "payload": payload}

    def _read(
        self, source: int, shard: int, clip: dict[str, Any]
    ) -> tuple[Payload | memoryview, dict[str, bytes]]:
        """The payload, and of the arrays those that are there: mostly one read for all."""
        index, offset, length = self._indexes[source], clip["offset"], clip["bytes"]
        extras = [e for name in self._arrays if (e := extra_of(clip, name))]
        places = [(offset, length), *((e["offset"], e["bytes"]) for e in extras)]
        first, end = min(at for at, _ in places), max(at + size for at, size in places)
        if not extras:
            return index.read(shard, offset, length), {}
        if end - first <= sum(size for _, size in places) + _GAP:
            whole = memoryview(index.read(shard, first, end - first))
            parts = [whole[at - first : at - first + size] for at, size in places]
        else:
            parts = [memoryview(index.read(shard, at, size)) for at, size in places]
        return parts[0], {e["name"]: bytes(p) for e, p in zip(extras, parts[1:], strict=True)}

    def _table(self, source: int, shard: int) -> pa.Table:
        tables = self._tables[source]
        if shard not in tables:
            tables[shard] = self._indexes[source].rows(shard).select(self._columns)
            if len(tables) > self._keep:
                tables.popitem(last=False)
        tables.move_to_end(shard)
        return tables[shard]


def _uncopied(payloads: list[Payload | memoryview | None]) -> pa.ChunkedArray:
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
