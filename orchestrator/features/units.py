"""Work units: runs of segments whose features become one file; and the reading of their video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.loader.clip_reader import ROW_SCHEMA, ClipLocations, ClipReader
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import DataError
from orchestrator.features.spec import EmbeddingSpec

MAX_UNIT_VIDEO_BYTES = 64_000_000
"""Coded video of a unit: what a block of Ray Data may hold."""

MAX_UNIT_SEGMENTS = 64
"""Segments of a unit: what is done again after a crash, and what actors share small datasets by."""

_SIDECARS = ("json", "states.npy")

SEGMENT_SCHEMA = pa.schema(
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
class EmbedUnit:
    """Consecutive segments of one dataset."""

    id: int
    source: int
    first: int
    stop: int


def split_into_units(indexes: Sequence[DatasetIndex], spec: EmbeddingSpec) -> list[EmbedUnit]:
    """Every segment of every dataset, in runs bounded in bytes. Depends on nothing else."""
    units: list[EmbedUnit] = []
    for source, index in enumerate(indexes):
        by_features = spec.part_bytes // (
            spec.bytes_per_clip * spec.decode_config.clips_per_segment
        )
        by_video = MAX_UNIT_VIDEO_BYTES * index.num_clips // max(1, index.num_bytes)
        length = max(1, min(MAX_UNIT_SEGMENTS, by_features, by_video))
        for first in range(0, index.num_clips, length):
            stop = min(first + length, index.num_clips)
            units.append(EmbedUnit(len(units), source, first, stop))
    return units


class SegmentReader:
    """Reads units: coded video, and what stands beside it."""

    def __init__(self, indexes: Sequence[DatasetIndex]) -> None:
        self._indexes = indexes
        self._clips = ClipReader(indexes, cached_row_groups=2)
        self._stops = [np.cumsum(index.clips_per_shard) for index in indexes]

    def read(self, unit: EmbedUnit) -> pa.Table:
        """The unit's segments, columns as `SEGMENT_SCHEMA`; one that cannot be read has a
        reason."""
        number = np.arange(unit.first, unit.stop)
        stops = self._stops[unit.source]
        shard = np.searchsorted(stops, number, side="right")
        row = number - (stops - self._indexes[unit.source].clips_per_shard)[shard]
        span = ClipLocations(number, np.full_like(number, unit.source), shard, row)
        table = self._clips.read(span)
        beside = self._read_sidecars(unit.source, shard, row, table["reason"].to_pylist())
        reasons = pa.array([one.pop("reason") for one in beside], pa.string())
        table = table.set_column(table.column_names.index("reason"), "reason", reasons)
        more = pa.Table.from_pylist(
            beside, schema=pa.schema(list(SEGMENT_SCHEMA)[len(ROW_SCHEMA) :])
        )
        for name in more.column_names:
            table = table.append_column(more.schema.field(name), more[name])
        return table

    def _read_sidecars(
        self, source: int, shards: np.ndarray, rows: np.ndarray, reasons: list[str | None]
    ) -> list[dict[str, Any]]:
        """The columns that the feed does without, segment by segment."""
        index = self._indexes[source]
        found: list[dict[str, Any]] = []
        for shard, row, reason in zip(shards.tolist(), rows.tolist(), reasons, strict=True):
            try:
                found.append({"reason": reason, **_read_sidecar_columns(index, shard, row)})
            except DataError as error:
                found.append({"reason": reason or error.what, "video": "", "frames": 0, "fps": 0.0})
        return found


def _read_sidecar_columns(index: DatasetIndex, shard: int, row: int) -> dict[str, Any]:
    clip = index.shard_rows(shard).slice(row, 1).to_pylist()[0]
    facts: dict[str, Any] = {
        "video": clip["source"],
        "frames": clip["frames"],
        "fps": clip["fps"],
    }
    for extra in clip.get("extras") or []:
        if extra["name"] in _SIDECARS:
            facts[extra["name"]] = index.read_bytes(shard, extra["offset"], extra["bytes"])
    return facts
