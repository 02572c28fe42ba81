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
    CHANGED,
    InPlaceSource,
    RawClip,
    Rejected,
    Source,
    WorkUnit,
)
from orchestrator.data.store.index_writer import ShardRows
from orchestrator.data.store.sidecar_arrays import ARRAYS, Found, unusable
from orchestrator.errors import OrchestratorError
from orchestrator.job import Encode
from orchestrator.storage import Storage
from orchestrator.unexpected import one_line, traceback_of

UNITS = "units"
"""Folder of the manifests, `units/ID.json`; gone once the dataset is complete."""

COMPLETE = "dataset.json"
"""Written last: the dataset is whole."""


@dataclass(frozen=True)
class Manifest:
    """What one committed attempt left."""

    unit: str
    identity: str
    inputs: int
    shards: list[ShardRows]
    rejected: list[Rejected]

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        raw = json.loads(data)
        return cls(
            unit=raw["unit"],
            identity=raw["identity"],
            inputs=raw["inputs"],
            shards=[ShardRows(**shard) for shard in raw["shards"]],
            rejected=[Rejected(**row) for row in raw["rejected"]],
        )

    def report(self) -> Report:
        clips = [clip for shard in self.shards for clip in shard.clips]
        return Report(
            unit=self.unit,
            inputs=self.inputs,
            clips=len(clips),
            seconds=sum(clip["duration_s"] for clip in clips),
            rejected=self.rejected,
        )


@dataclass(frozen=True)
class Report:
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
    def decode(cls, text: str) -> Report:
        raw: dict[str, Any] = json.loads(text)
        rejected = [Rejected(**row) for row in raw.pop("rejected")]
        return cls(**raw, rejected=rejected)


def manifest_name(unit: str) -> str:
    """Path of a unit's manifest in the dataset's folder."""
    return f"{UNITS}/{unit}.json"


def run_unit(
    storage: Storage, source: Source | InPlaceSource, unit: WorkUnit, encode: Encode
) -> Report:
    """Do one unit, or find that it is done; a failure is reported, never raised."""
    try:
        if storage.exists(manifest_name(unit.id)):
            return Manifest.decode(storage.read_bytes(manifest_name(unit.id))).report()
        return _attempt(storage, source, unit, encode).report()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Report(unit.id, failure="no space left on the storage")
        return Report(unit.id, failure=_describe(error))
    except OrchestratorError as error:
        return Report(unit.id, failure=str(error))
    except Exception as error:  # a user's own source may raise anything at all
        return Report(unit.id, failure=_describe(error), details=traceback_of(error))


def _attempt(
    storage: Storage, source: Source | InPlaceSource, unit: WorkUnit, encode: Encode
) -> Manifest:
    attempt = uuid.uuid4().hex[:8]
    writer = ShardWriter(storage, f"{unit.id}-{attempt}", int(encode.shard_bytes))
    try:
        if isinstance(source, InPlaceSource):
            shards, rejected = _index_in_place(source, unit)
        else:
            rejected = _write_clips(source, unit, encode, writer)
            shards = _without_changed(writer.finish(), rejected)
        manifest = Manifest(unit.id, unit.identity, len(unit.inputs), shards, rejected)
        late = storage.exists(COMPLETE)
        if late or not storage.create(manifest_name(unit.id), manifest.encode()):
            writer.discard()
            if not late:
                return Manifest.decode(storage.read_bytes(manifest_name(unit.id)))
    except BaseException:
        writer.discard()
        raise
    return manifest


def _index_in_place(
    source: InPlaceSource, unit: WorkUnit
) -> tuple[list[ShardRows], list[Rejected]]:
    shards: list[ShardRows] = []
    rejected: list[Rejected] = []
    for item in source.shards(unit):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            shards.append(item)
    return shards, rejected


def _write_clips(
    source: Source, unit: WorkUnit, encode: Encode, writer: ShardWriter
) -> list[Rejected]:
    rejected: list[Rejected] = []
    keys: set[str] = set()
    for item in source.clips(unit, encode):
        if isinstance(item, Rejected):
            rejected.append(item)
        elif item.key in keys:
            rejected.append(Rejected(item.source, f"duplicate key '{item.key}'"))
        elif fault := unusable(_arrays(item), item.frames):
            rejected.append(Rejected(item.source, fault[1]))
        else:
            keys.add(item.key)
            writer.add(item)
    return rejected


def _arrays(clip: RawClip) -> dict[str, Found]:
    return {name: Found.of(name, clip.extras[name]) for name in ARRAYS if name in clip.extras}


def _without_changed(shards: list[ShardRows], rejected: list[Rejected]) -> list[ShardRows]:
    """Clips of an input that changed while it was read do not enter the index."""
    changed = {row.source for row in rejected if row.reason == CHANGED}
    return [
        ShardRows(
            shard.shard,
            shard.bytes,
            shard.sha256,
            [clip for clip in shard.clips if clip["source"] not in changed],
        )
        for shard in shards
    ]


def _describe(error: Exception) -> str:
    """The error and the line that raised it, in one sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{one_line(error)}{where}"
