"""Datasets of some clips of another; the tars stay where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.data.packing.unit import DATASET_FILE
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.index_writer import IndexedShard, write_index
from orchestrator.errors import RequestError
from orchestrator.storage import Storage
from orchestrator.storage.lease import lease

SUBSET_LEASE = "choosing.json"
"""In the dataset's folder while a process makes it."""

ClipPredicate = Callable[[Mapping[str, Any]], bool]
"""Whether a clip, a row of the index, is wanted."""


def filter_by_duration(index: DatasetIndex, seconds: float, datasets: Storage) -> DatasetIndex:
    """`index` itself if every clip lasts longer than `seconds`, else an index of those that do.

    Raises:
        RequestError: no clip is long enough.
    """
    shortest, longest = index.duration_range()
    if longest <= seconds:
        raise RequestError(
            f"a clip of data.frames at data.fps spans {seconds:.2f} s, but the longest video"
            f" segment lasts {longest:.2f} s",
            where=index.uri,
            hint="lower data.frames, raise data.fps, or raise data.encode.segment where the"
            " videos themselves are longer",
        )
    if shortest > seconds:
        return index
    name = f"{index.uri}:{index.digest}:{seconds:.6f}"
    storage = datasets.subfolder(hashlib.sha256(name.encode()).hexdigest()[:16])
    facts = {"longer_than_s": seconds}
    return write_subset(index, lambda row: row["duration_s"] > seconds, storage, facts)


def write_subset(
    index: DatasetIndex, keep: ClipPredicate, storage: Storage, facts: dict[str, Any]
) -> DatasetIndex:
    """A dataset in `storage` of those clips that are kept; one that is there already is opened.

    Args:
        facts: what its file of facts says of the choice.

    Raises:
        DataError: none is.
    """
    if storage.exists(DATASET_FILE):
        return DatasetIndex.open(storage.root)
    doing = f"chooses clips of {index.uri} too"
    with lease(storage, SUBSET_LEASE, doing, lambda: storage.exists(DATASET_FILE)) as mine:
        if not mine:
            return DatasetIndex.open(storage.root)
        chosen = write_index(storage, _matching_shards(index, keep))
        whole = {"layout": 1, "from": index.uri, **facts, "clips": chosen.num_clips}
        storage.write_json(DATASET_FILE, whole)
    return chosen


def split_fraction(seed: int, source: str) -> float:
    """A number in [0, 1) that a video's name and the seed decide: what splits go by.

    Only the last part of the name counts, so that a folder may be moved; the segments of a video
    have the same.
    """
    name = source.rstrip("/").rpartition("/")[2]
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _matching_shards(index: DatasetIndex, keep: ClipPredicate) -> Iterator[IndexedShard]:
    for shard in range(index.num_shards):
        info = index.shard_info(shard)
        tar = index.tar_uri(shard)
        clips = [{**row, "shard": tar} for row in index.shard_rows(shard).to_pylist() if keep(row)]
        yield IndexedShard(tar, info["bytes"], info["sha256"], clips)
