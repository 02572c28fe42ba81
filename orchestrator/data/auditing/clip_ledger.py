"""The clip ledger: which clips each rank trained on, by step.

Parts are parquet files `ATTEMPT/rank-00003/steps-00000200-00000399.parquet`, written when a
checkpoint is saved. They are never rewritten: when a run resumes from an earlier checkpoint, its
next attempt writes the repeated steps again, and the reader marks the earlier attempt's rows of
these steps as superseded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.loader.batch import Batch
from orchestrator.data.loader.order import PADDING
from orchestrator.storage import Storage, with_retries

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("position", pa.int64()),
        ("key", pa.string()),
        ("sha256", pa.string()),  # of the payload; with actions: `sidecar_arrays.combine_hashes`
        ("weight", pa.float32()),  # 0: the clip failed and was not trained on
        ("reason", pa.string()),  # why it failed
    ]
)

_PART_PATTERN = re.compile(
    r"^(?P<attempt>[^/]+)/rank-(?P<rank>\d+)/steps-(?P<first>\d+)-(?P<last>\d+)\.parquet$"
)


class ClipLedgerWriter:
    """Writes one rank's part of the ledger.

    Args:
        storage: the run's `ledger` folder.
        attempt: name of this start of the worker group; names of later attempts sort after it.
    """

    def __init__(self, storage: Storage, rank: int, attempt: str) -> None:
        self._storage, self._folder = storage, f"{attempt}/rank-{rank:05d}"
        self._rows: list[dict[str, object]] = []

    def append(self, step: int, batch: Batch) -> None:
        """Record one micro-batch of a step, without padding."""
        reasons = {failure.position: failure.reason for failure in batch.failures}
        rows = zip(
            batch.position.tolist(),
            batch.keys,
            batch.content_hashes,
            batch.weight.tolist(),
            strict=True,
        )
        self._rows += [
            {
                "step": step,
                "position": position,
                "key": key,
                "sha256": sha256,
                "weight": weight,
                "reason": reasons.get(position),
            }
            for position, key, sha256, weight in rows
            if position != PADDING
        ]

    def flush(self) -> None:
        """Write the rows since the last flush as one part."""
        self.flush_later()()

    def flush_later(self) -> Callable[[], None]:
        """A function that writes the rows since the last flush, to be called on another thread.

        It raises OSError if the storage fails for minutes.
        """
        rows, self._rows = self._rows, []
        return lambda: self._write(rows)

    def _write(self, rows: list[dict[str, object]]) -> None:
        if not rows:
            return
        first, last = rows[0]["step"], rows[-1]["step"]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
        path = f"{self._folder}/steps-{first:08d}-{last:08d}.parquet"
        with_retries(self._storage.write_bytes, path, sink.getbuffer())


@dataclass(frozen=True)
class _Part:
    """A file of the ledger, by its path."""

    path: str
    attempt: str
    rank: int
    first: int
    last: int

    @classmethod
    def parse(cls, path: str) -> _Part | None:
        """The part at a path; None if the file is not a part."""
        match = _PART_PATTERN.match(path)
        if match is None:
            return None
        rank, first, last = (int(match[name]) for name in ("rank", "first", "last"))
        return cls(path, match["attempt"], rank, first, last)


def read_clip_ledger(storage: Storage, steps: range | None = None) -> pa.Table:
    """Read the rows of a run's `ledger` folder, sorted by step and position.

    Columns are those of `SCHEMA`, attempt (string), rank (int32) and superseded (bool): whether a
    later attempt repeated the step from an earlier checkpoint.

    Args:
        steps: steps to read; None: all.
    """
    parts = [part for entry in storage.files() if (part := _Part.parse(entry.path))]
    starts: dict[str, int] = {}
    for part in parts:
        starts[part.attempt] = min(part.first, starts.get(part.attempt, part.first))
    tables = [
        _read_part(storage, part, _superseded_from(starts, part.attempt))
        for part in parts
        if steps is None or (part.first < steps.stop and part.last >= steps.start)
    ]
    if not tables:
        extra = [("attempt", pa.string()), ("rank", pa.int32()), ("superseded", pa.bool_())]
        return pa.schema([*SCHEMA, *extra]).empty_table()
    table = pa.concat_tables(tables)
    if steps is not None:
        inside = pc.and_(
            pc.greater_equal(table["step"], steps.start), pc.less(table["step"], steps.stop)
        )
        table = table.filter(inside)
    return table.sort_by([("step", "ascending"), ("position", "ascending")])


def _superseded_from(starts: dict[str, int], attempt: str) -> int | None:
    """The step from which later attempts repeated an attempt's steps; None: they repeated none."""
    return min((first for other, first in starts.items() if other > attempt), default=None)


def _read_part(storage: Storage, part: _Part, end: int | None) -> pa.Table:
    table = pq.read_table(io.BytesIO(storage.read_bytes(part.path)), schema=SCHEMA)
    superseded = (
        pa.array([False] * len(table)) if end is None else pc.greater_equal(table["step"], end)
    )
    table = table.append_column("attempt", pa.array([part.attempt] * len(table), pa.string()))
    table = table.append_column("rank", pa.array([part.rank] * len(table), pa.int32()))
    return table.append_column("superseded", superseded)
