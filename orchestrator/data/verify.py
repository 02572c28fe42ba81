"""Comparing an index with its tars."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from orchestrator.data.index import Index
from orchestrator.data.inputs import open_file
from orchestrator.data.sources import list_files
from orchestrator.errors import DataError, RequestError
from orchestrator.storage import Storage

_BLOCK = 1 << 20


def verify(index: Index, clips: int | None = None) -> list[str]:
    """What is wrong with a dataset, one sentence each; empty when all is well.

    `clips`: how many clips, evenly spread, are read and hashed beside the tars' sizes; None
    reads everything, whole tars too.
    """
    problems = list(_wrong_sizes(index))
    if problems or clips == 0:
        return problems
    if clips is None:
        problems += _wrong_tars(index)
    chosen = np.arange(index.clips)
    if clips is not None and clips < index.clips:
        chosen = np.linspace(0, index.clips - 1, clips).round().astype(np.int64)
    return problems + list(_wrong_clips(index, chosen))


def _wrong_sizes(index: Index) -> Iterator[str]:
    """Tars that are gone or of another size, found by listing their folders."""
    sizes: dict[str, int] = {}
    listed: set[str] = set()
    for shard in range(index.shards):
        info, tar = index.shard_info(shard), index.tar(shard)
        folder = tar.rpartition("/")[0]
        if folder not in listed:
            listed.add(folder)
            sizes |= _sizes(folder)
        found = sizes.get(tar)
        if found is None:
            yield f"{tar} is missing"
        elif found != info["bytes"]:
            yield f"{tar} has {found} bytes, {info['bytes']} were indexed"


def _sizes(folder: str) -> dict[str, int]:
    storage = Storage(folder or "/")
    try:
        return {storage.uri(e.path): e.size for e in list_files(storage)}
    except RequestError:
        return {}


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
            try:
                index.read(int(shard), row["offset"], row["bytes"], row["sha256"])
            except DataError as error:
                yield f"{row['key']}: {error.what} ({error.where})"
