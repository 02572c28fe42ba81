"""Comparing an index with its tars."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from orchestrator.data.sources.inputs import MISSING, file_identity, open_buffered
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import DataError
from orchestrator.storage import Storage

_READ_CHUNK_BYTES = 1 << 20
_NUM_THREADS = 16


def verify_dataset(index: DatasetIndex, num_clips: int | None = None) -> list[str]:
    """What is wrong with a dataset, one sentence each; empty when all is well.

    `num_clips`: how many clips, evenly spread, are read and hashed beside the tars' sizes; None
    reads everything, whole tars too.
    """
    problems = find_size_mismatches(index)
    if problems or num_clips == 0:
        return problems
    if num_clips is None:
        problems += _tar_hash_mismatches(index)
    chosen = np.arange(index.num_clips)
    if num_clips is not None and num_clips < index.num_clips:
        chosen = np.linspace(0, index.num_clips - 1, num_clips).round().astype(np.int64)
    return problems + list(_clip_hash_mismatches(index, chosen))


def find_size_mismatches(index: DatasetIndex, num_tars: int | None = None) -> list[str]:
    """Tars that are gone or of another size; `num_tars`: look at so many, evenly spread."""
    shards = np.arange(index.num_shards)
    if num_tars is not None and num_tars < index.num_shards:
        shards = np.linspace(0, index.num_shards - 1, num_tars).round().astype(np.int64)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return [wrong for wrong in pool.map(partial(_size_mismatch, index), shards) if wrong]


def _size_mismatch(index: DatasetIndex, shard: int) -> str:
    info = index.shard_info(int(shard))
    tar = index.resolve_tar_uri(info["shard"])
    folder, _, name = tar.rpartition("/")
    state = file_identity(Storage(folder or "/"), name)
    if state == MISSING:
        return f"{tar} is missing"
    found = int(state.partition(":")[0])
    return "" if found == info["bytes"] else f"{tar} has {found} bytes, not {info['bytes']}"


def _tar_hash_mismatches(index: DatasetIndex) -> Iterator[str]:
    for shard in range(index.num_shards):
        tar = index.tar_uri(shard)
        folder, _, name = tar.rpartition("/")
        digest = hashlib.sha256()
        with open_buffered(Storage(folder or "/"), name) as file:
            while block := file.read(_READ_CHUNK_BYTES):
                digest.update(block)
        if digest.hexdigest() != index.shard_info(shard)["sha256"]:
            yield f"{tar} does not have the bytes that were indexed (sha256 differs)"


def _clip_hash_mismatches(index: DatasetIndex, chosen: np.ndarray) -> Iterator[str]:
    starts = np.concatenate([[0], np.cumsum(index.clips_per_shard)])
    owner = np.searchsorted(starts, chosen, side="right") - 1
    for shard in np.unique(owner):
        rows = index.shard_rows(int(shard))
        for at in chosen[owner == shard] - starts[shard]:
            row = rows.slice(int(at), 1).to_pylist()[0]
            hashed = [e for e in row.get("extras") or () if e.get("sha256")]
            for part in (row, *hashed):
                try:
                    index.read_bytes(int(shard), part["offset"], part["bytes"], part["sha256"])
                except DataError as error:
                    yield f"{row['key']}: {error.what} ({error.where})"
