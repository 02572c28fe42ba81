"""Work units: runs of segments whose features become one file; and the reading of their video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.store.clip_reader import ROW_SCHEMA, ClipReader, Span
from orchestrator.data.store.index import Index
from orchestrator.errors import DataError
from orchestrator.features.spec import Spec

CODED_BYTES = 64_000_000
"""Coded video of a unit: what a block of Ray Data may hold."""

MOST_SEGMENTS = 64
"""Segments of a unit: what is done again after a crash, and what actors share small datasets by."""

_EXTRAS = ("json", "states.npy")

UNIT_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        ("video", pa.string()),  # the input that the segment was cut from
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("json", pa.large_binary()),
        ("states.npy", pa.large_binary()),
    ]
)
"""A unit's segments, coded; `position` is the segment's number in its dataset."""


@dataclass(frozen=True)
class Unit:
    """Consecutive segments of one dataset."""

    number: int
    source: int
    first: int
    stop: int


def plan_units(indexes: Sequence[Index], spec: Spec) -> list[Unit]:
    """Every segment of every dataset, in runs bounded in bytes. Depends on nothing else."""
    units: list[Unit] = []
    for source, index in enumerate(indexes):
        by_features = spec.part_bytes // (spec.row_bytes * spec.recipe.clips)
        by_video = CODED_BYTES * index.clips // max(1, index.bytes)
        length = max(1, min(MOST_SEGMENTS, by_features, by_video))
        for first in range(0, index.clips, length):
            stop = min(first + length, index.clips)
            units.append(Unit(len(units), source, first, stop))
    return units


class UnitReader:
    """Reads units: coded video, and what stands beside it."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._indexes = indexes
        self._clips = ClipReader(indexes, row_groups=2)
        self._stops = [np.cumsum(index.counts) for index in indexes]

    def read(self, unit: Unit) -> pa.Table:
        """The unit's segments, columns as `UNIT_SCHEMA`; one that cannot be read has a reason."""
        number = np.arange(unit.first, unit.stop)
        stops = self._stops[unit.source]
        shard = np.searchsorted(stops, number, side="right")
        row = number - (stops - self._indexes[unit.source].counts)[shard]
        span = Span(number, np.full_like(number, unit.source), shard, row)
        table = self._clips.read(span)
        beside = self._beside(unit.source, shard, row, table["reason"].to_pylist())
        reasons = pa.array([one.pop("reason") for one in beside], pa.string())
        table = table.set_column(table.column_names.index("reason"), "reason", reasons)
        more = pa.Table.from_pylist(beside, schema=pa.schema(list(UNIT_SCHEMA)[len(ROW_SCHEMA) :]))
        for name in more.column_names:
            table = table.append_column(more.schema.field(name), more[name])
        return table

    def _beside(
        self, source: int, shards: np.ndarray, rows: np.ndarray, reasons: list[str | None]
    ) -> list[dict[str, Any]]:
        """The columns that the feed does without, segment by segment."""
        index = self._indexes[source]
        found: list[dict[str, Any]] = []
        for shard, row, reason in zip(shards.tolist(), rows.tolist(), reasons, strict=True):
            try:
                found.append({"reason": reason, **_facts(index, shard, row)})
            except DataError as error:
                found.append({"reason": reason or error.what, "video": "", "frames": 0, "fps": 0.0})
        return found


def _facts(index: Index, shard: int, row: int) -> dict[str, Any]:
    clip = index.rows(shard).slice(row, 1).to_pylist()[0]
    facts: dict[str, Any] = {
        "video": clip["source"],
        "frames": clip["frames"],
        "fps": clip["fps"],
    }
    for extra in clip.get("extras") or []:
        if extra["name"] in _EXTRAS:
            facts[extra["name"]] = index.read(shard, extra["offset"], extra["bytes"])
    return facts
