"""A dataset's folder: its name before it is packed, and its completion afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.packing.array_widths import ArrayWidths
from orchestrator.data.packing.unit import (
    DATASET_FILE,
    MANIFESTS_FOLDER,
    UnitManifest,
    manifest_path,
)
from orchestrator.data.sources.base import InPlaceSource, Rejected, Source, WorkUnit
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.index_writer import IndexedShard, write_index
from orchestrator.errors import DataError, JobFailed
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage, is_remote

FORMAT_VERSION = 1
PACKING_VERSION = 2
"""Raised when packing the same video with the same options gives other clips. 2: frames are those
that a player shows, at their own times; plain videos give the same clips as before."""

EARLIER_PACKING_VERSIONS = (1,)

QUARANTINE_FILE = "quarantine.parquet"

_READERS, _AT_ONCE = 16, 256
_QUARANTINE_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string())])


def dataset_folder(
    datasets: Storage, uri: str, units: list[WorkUnit], encode: TranscodeConfig, *, in_place: bool
) -> tuple[Storage, bool]:
    """The folder of a dataset, and whether an earlier version made or began it: runs that were
    trained on it go on with the same clips."""
    for recipe in (PACKING_VERSION, *EARLIER_PACKING_VERSIONS):
        digest = dataset_digest(uri, units, encode, in_place=in_place, packing_version=recipe)
        if datasets.is_dir(digest):
            return datasets.subfolder(digest), recipe != PACKING_VERSION
    return datasets.subfolder(dataset_digest(uri, units, encode, in_place=in_place)), False


def dataset_digest(
    uri: str,
    units: list[WorkUnit],
    encode: TranscodeConfig,
    *,
    in_place: bool,
    packing_version: int = PACKING_VERSION,
) -> str:
    """16 hex digits of what will be packed and how: the name of the dataset's folder."""
    options = {} if in_place else encode.model_dump(mode="json")
    head = {"layout": FORMAT_VERSION, "recipe": packing_version, "source": uri, "encode": options}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for unit in units:
        digest.update(json.dumps([unit.id, unit.inputs, unit.identity]).encode())
    return digest.hexdigest()[:16]


def is_complete(storage: Storage) -> bool:
    """True once a dataset is whole."""
    return storage.exists(DATASET_FILE)


def read_manifests(storage: Storage, names: Iterable[str]) -> Iterator[UnitManifest]:
    """Manifests of units, in the order given, a few read ahead."""
    waiting = iter(names)
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(waiting, _AT_ONCE)):
            yield from pool.map(
                lambda unit: UnitManifest.decode(storage.read_bytes(manifest_path(unit))), batch
            )


def finalize_dataset(
    storage: Storage,
    source: Source | InPlaceSource,
    units: list[WorkUnit],
    encode: TranscodeConfig,
    bad_limit: float,
    skipped: list[Rejected],
) -> DatasetIndex:
    """The index as the union of the committed manifests, then `dataset.json`, then tidying.

    `skipped`: rows for what the source left out.

    Raises:
        JobFailed: not one clip could be made, or the actions of more than `bad_limit` of them
            are not like the others'.
    """
    if is_complete(storage):  # by a process that took over the lease: its index is in use
        return DatasetIndex.open(storage.root)
    rejected = list(skipped)
    names = [unit.id for unit in units]
    keys, widths = _DuplicateKeyCheck(), ArrayWidths()

    def shards() -> Iterator[IndexedShard]:
        for manifest in read_manifests(storage, names):
            yield from manifest.shards

    try:
        manifests = read_manifests(storage, names)
        index = write_index(storage, _collect_shards(manifests, rejected, keys, widths))
        repeat = keys.has_duplicates()
        if repeat or widths.num_minority_clips:
            _check_outvoted(storage, source, widths, rejected, index.num_clips * bad_limit)
            kept = (widths.without_minority_clips(shard, rejected) for shard in shards())
            index = write_index(storage, map(_prefix_keys, kept) if repeat else kept)
    except DataError:
        write_quarantine(storage, rejected)
        raise JobFailed(
            f"not one clip could be made of {sum(len(u.inputs) for u in units)} inputs",
            where=source.uri,
            hint=f"the first reasons: {summarize_rejected(rejected) or 'the source gave none'}",
        ) from None
    write_quarantine(storage, rejected)
    in_place = isinstance(source, InPlaceSource)
    storage.write_json(
        DATASET_FILE,
        {
            "layout": FORMAT_VERSION,
            "digest": storage.root.rpartition("/")[2],
            "content": index.digest,
            "source": source.uri,
            "in_place": in_place,
            "encode": None if in_place else encode.model_dump(mode="json"),
            "clips": index.num_clips,
            "shards": index.num_shards,
            "seconds": index.seconds,
            "bytes": index.num_bytes,
            "inputs": sum(len(unit.inputs) for unit in units),
            "quarantined": len(rejected),
        },
    )
    remove_leftovers(storage, index)
    return index


def remove_leftovers(storage: Storage, index: DatasetIndex) -> None:
    """Remove tars that no manifest names, and then the manifests; for complete datasets only, and
    under the lease of packing: an attempt of another process may be writing such a tar."""
    if not storage.is_dir(MANIFESTS_FOLDER):
        return
    named = {index.shard_info(shard)["shard"] for shard in range(index.num_shards)}
    for entry in list(storage.files(recursive=False)):
        if entry.path.endswith(".tar") and entry.path not in named:
            storage.delete(entry.path)
    storage.delete_tree(MANIFESTS_FOLDER)


def read_dataset_info(storage: Storage) -> dict[str, Any]:
    """dataset.json."""
    facts: dict[str, Any] = storage.read_json(DATASET_FILE)
    return facts


def write_quarantine(storage: Storage, rejected: list[Rejected]) -> None:
    """`quarantine.parquet`: what could not be used, and why."""
    rows = [{"source": row.source, "reason": row.reason} for row in rejected]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_QUARANTINE_SCHEMA), sink)
    storage.write_bytes(QUARANTINE_FILE, memoryview(sink.getvalue()))


def read_quarantine(storage: Storage) -> list[Rejected]:
    """The rows of `quarantine.parquet`; none where a dataset has no such file."""
    if not storage.exists(QUARANTINE_FILE):
        return []
    table = pq.read_table(pa.BufferReader(storage.read_bytes(QUARANTINE_FILE)))
    return [Rejected(row["source"], row["reason"]) for row in table.to_pylist()]


def add_to_quarantine(storage: Storage, rows: list[Rejected]) -> list[Rejected]:
    """Those of `rows` that a complete dataset does not have yet; now it has them."""
    there = read_quarantine(storage) if rows else []
    known = {(row.source, row.reason) for row in there}
    new = [row for row in rows if (row.source, row.reason) not in known]
    if new:
        write_quarantine(storage, [*there, *new])
    return new


def summarize_rejected(rejected: list[Rejected], count: int = 5) -> str:
    """A few rows as text, those that cost clips first, and how many more there are."""
    rows = sorted(rejected, key=lambda row: not row.share)
    lines = [f"{row.source}: {row.reason}" for row in rows[:count]]
    if len(rejected) > count:
        lines.append(f"and {len(rejected) - count} more")
    return "; ".join(lines)


class _DuplicateKeyCheck:
    """Hashes of all keys, 8 bytes each, to find out whether two clips share one."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, shard: IndexedShard) -> None:
        hashes = [hashlib.sha256(clip["key"].encode()).digest()[:8] for clip in shard.clips]
        self._parts.append(np.frombuffer(b"".join(hashes), dtype=np.uint64))

    def has_duplicates(self) -> bool:
        """True when a key stands in two tars; it forgets them all."""
        hashes = np.sort(np.concatenate(self._parts))
        self._parts = []
        return bool((hashes[1:] == hashes[:-1]).any())


def _collect_shards(
    manifests: Iterator[UnitManifest],
    rejected: list[Rejected],
    keys: _DuplicateKeyCheck,
    widths: ArrayWidths,
) -> Iterator[IndexedShard]:
    for manifest in manifests:
        rejected.extend(manifest.rejected)
        for shard in manifest.shards:
            keys.add(shard)
            widths.add(shard)
            yield shard


def _check_outvoted(
    storage: Storage,
    source: Source | InPlaceSource,
    widths: ArrayWidths,
    rejected: list[Rejected],
    most: float,
) -> None:
    if widths.num_minority_clips > most:
        write_quarantine(storage, rejected)
        raise JobFailed(
            f"the actions of {widths.num_minority_clips} clips are not like the others': {widths}",
            where=source.uri,
            hint="pack what acts differently as sources of their own, or raise bad_limit",
        )


def _prefix_keys(shard: IndexedShard) -> IndexedShard:
    """Keys with their tar's name before them, for tars that each count from zero."""
    name = shard.shard if is_remote(shard.shard) else shard.shard.lstrip("/")
    stem = name.removesuffix(".tar").rpartition("/")[2]
    clips = [{**clip, "key": f"{stem}/{clip['key']}"} for clip in shard.clips]
    return IndexedShard(shard.shard, shard.bytes, shard.sha256, clips)
