"""One work unit: an attempt at it, and the manifest that commits the attempt.

An attempt writes tars under names of its own and then puts one manifest under the unit's
name. The first manifest counts; an attempt that comes second deletes what it wrote, and one
that dies leaves orphans, which `orchestrator.data.packing.dataset` removes. So a unit may be tried
any number of times, also at the same time, and its clips stand in the dataset once.
"""

from __future__ import annotations

import errno
import json
import traceback
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.data.packing.shard_writer import ShardWriter
from orchestrator.data.sources.base import (
    CHANGED_WHILE_PACKING,
    InPlaceSource,
    RawClip,
    Rejected,
    Source,
    WorkUnit,
)
from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.data.store.sidecar_arrays import ARRAY_FILES, ArraySummary, find_unusable_array
from orchestrator.errors import OrchestratorError
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage
from orchestrator.unexpected import format_traceback, one_line

MANIFESTS_FOLDER = "units"
"""Folder of the manifests, `units/ID.json`; gone once the dataset is complete."""

DATASET_FILE = "dataset.json"
"""Written last: the dataset is whole."""


@dataclass(frozen=True)
class UnitManifest:
    """What one committed attempt left."""

    unit: str
    identity: str
    inputs: int
    shards: list[IndexedShard]
    rejected: list[Rejected]

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> UnitManifest:
        raw = json.loads(data)
        return cls(
            unit=raw["unit"],
            identity=raw["identity"],
            inputs=raw["inputs"],
            shards=[IndexedShard(**shard) for shard in raw["shards"]],
            rejected=[Rejected(**row) for row in raw["rejected"]],
        )

    def to_report(self) -> PackUnitReport:
        clips = [clip for shard in self.shards for clip in shard.clips]
        return PackUnitReport(
            unit=self.unit,
            inputs=self.inputs,
            clips=len(clips),
            seconds=sum(clip["duration_s"] for clip in clips),
            rejected=self.rejected,
        )


@dataclass(frozen=True)
class PackUnitReport:
    """What the driver hears of a unit. `failure`: why the attempt could not be committed;
    `details`: the traceback of one that nobody foresaw."""

    unit: str
    inputs: int = 0
    clips: int = 0
    seconds: float = 0.0
    rejected: list[Rejected] = field(default_factory=list)
    failure: str = ""
    details: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> PackUnitReport:
        raw: dict[str, Any] = json.loads(text)
        rejected = [Rejected(**row) for row in raw.pop("rejected")]
        return cls(**raw, rejected=rejected)


def manifest_path(unit: str) -> str:
    """Path of a unit's manifest in the dataset's folder."""
    return f"{MANIFESTS_FOLDER}/{unit}.json"


def pack_unit(
    storage: Storage, source: Source | InPlaceSource, unit: WorkUnit, encode: TranscodeConfig
) -> PackUnitReport:
    """Do one unit, or find that it is done; a failure is reported, never raised."""
    try:
        if storage.exists(manifest_path(unit.id)):
            return UnitManifest.decode(storage.read_bytes(manifest_path(unit.id))).to_report()
        return _pack_and_commit(storage, source, unit, encode).to_report()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return PackUnitReport(unit.id, failure="no space left on the storage")
        return PackUnitReport(unit.id, failure=describe_error(error))
    except OrchestratorError as error:
        return PackUnitReport(unit.id, failure=str(error))
    except Exception as error:  # a user's own source may raise anything at all
        return PackUnitReport(
            unit.id, failure=describe_error(error), details=format_traceback(error)
        )


def _pack_and_commit(
    storage: Storage, source: Source | InPlaceSource, unit: WorkUnit, encode: TranscodeConfig
) -> UnitManifest:
    attempt = uuid.uuid4().hex[:8]
    writer = ShardWriter(storage, f"{unit.id}-{attempt}", int(encode.shard_bytes))
    try:
        if isinstance(source, InPlaceSource):
            shards, rejected = _index_in_place(source, unit)
        else:
            rejected = _write_clips(source, unit, encode, writer)
            shards = _drop_changed_inputs(writer.finish(), rejected)
        manifest = UnitManifest(unit.id, unit.identity, len(unit.inputs), shards, rejected)
        late = storage.exists(DATASET_FILE)
        if late or not storage.write_if_absent(manifest_path(unit.id), manifest.encode()):
            writer.discard()
            if not late:
                return UnitManifest.decode(storage.read_bytes(manifest_path(unit.id)))
    except BaseException:
        writer.discard()
        raise
    return manifest


def _index_in_place(
    source: InPlaceSource, unit: WorkUnit
) -> tuple[list[IndexedShard], list[Rejected]]:
    shards: list[IndexedShard] = []
    rejected: list[Rejected] = []
    for item in source.shards(unit):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            shards.append(item)
    return shards, rejected


def _write_clips(
    source: Source, unit: WorkUnit, encode: TranscodeConfig, writer: ShardWriter
) -> list[Rejected]:
    rejected: list[Rejected] = []
    keys: set[str] = set()
    for item in source.clips(unit, encode):
        if isinstance(item, Rejected):
            rejected.append(item)
        elif item.key in keys:
            rejected.append(Rejected(item.source, f"duplicate key '{item.key}'"))
        elif fault := find_unusable_array(_arrays(item), item.frames):
            rejected.append(Rejected(item.source, fault[1]))
        else:
            keys.add(item.key)
            writer.add(item)
    return rejected


def _arrays(clip: RawClip) -> dict[str, ArraySummary]:
    return {
        name: ArraySummary.from_bytes(name, clip.extras[name])
        for name in ARRAY_FILES
        if name in clip.extras
    }


def _drop_changed_inputs(
    shards: list[IndexedShard], rejected: list[Rejected]
) -> list[IndexedShard]:
    """Clips of an input that changed while it was read do not enter the index."""
    changed = {row.source for row in rejected if row.reason == CHANGED_WHILE_PACKING}
    return [
        IndexedShard(
            shard.shard,
            shard.bytes,
            shard.sha256,
            [clip for clip in shard.clips if clip["source"] not in changed],
        )
        for shard in shards
    ]


def describe_error(error: Exception) -> str:
    """The error and the line that raised it, in one sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{one_line(error)}{where}"
