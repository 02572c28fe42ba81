"""Comparing an index with its tars."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from orchestrator.data.sources.inputs import MISSING, identity_of, open_file
from orchestrator.data.store.index import Index
from orchestrator.errors import DataError
from orchestrator.storage import Storage

_BLOCK = 1 << 20
_ASKERS = 16


def verify(index: Index, clips: int | None = None) -> list[str]:
    """What is wrong with a dataset, one sentence each; empty when all is well.

    `clips`: how many clips, evenly spread, are read and hashed beside the tars' sizes; None
    reads everything, whole tars too.
    """
    problems = wrong_sizes(index)
    if problems or clips == 0:
        return problems
    if clips is None:
        problems += _wrong_tars(index)
    chosen = np.arange(index.clips)
    if clips is not None and clips < index.clips:
        chosen = np.linspace(0, index.clips - 1, clips).round().astype(np.int64)
    return problems + list(_wrong_clips(index, chosen))


def wrong_sizes(index: Index, tars: int | None = None) -> list[str]:
    """Tars that are gone or of another size; `tars`: look at so many, evenly spread."""
    shards = np.arange(index.shards)
    if tars is not None and tars < index.shards:
        shards = np.linspace(0, index.shards - 1, tars).round().astype(np.int64)
    with ThreadPoolExecutor(_ASKERS) as pool:
        return [wrong for wrong in pool.map(partial(_wrong_size, index), shards) if wrong]


def _wrong_size(index: Index, shard: int) -> str:
    info = index.shard_info(int(shard))
    tar = index.locate_tar(info["shard"])
    folder, _, name = tar.rpartition("/")
    state = identity_of(Storage(folder or "/"), name)
    if state == MISSING:
        return f"{tar} is missing"
    found = int(state.partition(":")[0])
    return "" if found == info["bytes"] else f"{tar} has {found} bytes, not {info['bytes']}"


def _wrong_tars(index: Index) -> Iterator[str]:
    for shard in range(index.shards):
        tar = index.tar(shard)
        folder, _, name = tar.rpartition("/")
        digest = hashlib.sha256()
        with open_file(Storage(folder or "/"), name) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != index.shard_info(shard)["sha256"]:
            yield f"{tar} does not have the bytes that were indexed (sha256 differs)"


def _wrong_clips(index: Index, chosen: np.ndarray) -> Iterator[str]:
    starts = np.concatenate([[0], np.cumsum(index.counts)])
    owner = np.searchsorted(starts, chosen, side="right") - 1
    for shard in np.unique(owner):
        rows = index.rows(int(shard))
        for at in chosen[owner == shard] - starts[shard]:
            row = rows.slice(int(at), 1).to_pylist()[0]
            hashed = [e for e in row.get("extras") or () if e.get("sha256")]
            for part in (row, *hashed):
                try:
                    index.read(int(shard), part["offset"], part["bytes"], part["sha256"])
                except DataError as error:
                    yield f"{row['key']}: {error.what} ({error.where})"
