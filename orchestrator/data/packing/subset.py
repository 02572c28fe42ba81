"""Datasets of some clips of another; the tars stay where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.data.packing.unit import COMPLETE
from orchestrator.data.store.index import Index
from orchestrator.data.store.index_writer import ShardRows, write_index
from orchestrator.errors import RequestError
from orchestrator.storage import Storage
from orchestrator.storage.lease import leased

LEASE = "choosing.json"
"""In the dataset's folder while a process makes it."""

Keep = Callable[[Mapping[str, Any]], bool]
"""Whether a clip, a row of the index, is wanted."""


def longer_than(index: Index, seconds: float, datasets: Storage) -> Index:
    """`index` itself if every clip lasts longer than `seconds`, else an index of those that do.

    Raises:
        RequestError: no clip is long enough.
    """
    shortest, longest = index.durations()
    if longest <= seconds:
        raise RequestError(
            f"a clip of data.frames at data.fps spans {seconds:.2f} s, but the longest video"
            f" segment lasts {longest:.2f} s",
            where=index.uri,
            mend="lower data.frames, raise data.fps, or raise data.encode.segment where the"
            " videos themselves are longer",
        )
    if shortest > seconds:
        return index
    name = f"{index.uri}:{index.digest}:{seconds:.6f}"
    storage = datasets.sub(hashlib.sha256(name.encode()).hexdigest()[:16])
    facts = {"longer_than_s": seconds}
    return some_clips(index, lambda row: row["duration_s"] > seconds, storage, facts)


def some_clips(index: Index, keep: Keep, storage: Storage, facts: dict[str, Any]) -> Index:
    """A dataset in `storage` of those clips that are kept; one that is there already is opened.

    Args:
        facts: what its file of facts says of the choice.

    Raises:
        DataError: none is.
    """
    if storage.exists(COMPLETE):
        return Index.open(storage.root)
    doing = f"chooses clips of {index.uri} too"
    with leased(storage, LEASE, doing, lambda: storage.exists(COMPLETE)) as mine:
        if not mine:
            return Index.open(storage.root)
        chosen = write_index(storage, _chosen(index, keep))
        whole = {"layout": 1, "from": index.uri, **facts, "clips": chosen.clips}
        storage.write_json(COMPLETE, whole)
    return chosen


def mark(seed: int, source: str) -> float:
    """A number in [0, 1) that a video's name and the seed decide: what splits go by.

    Only the last part of the name counts, so that a folder may be moved; the segments of a video
    have the same.
    """
    name = source.rstrip("/").rpartition("/")[2]
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _chosen(index: Index, keep: Keep) -> Iterator[ShardRows]:
    for shard in range(index.shards):
        info = index.shard_info(shard)
        tar = index.tar(shard)
        clips = [{**row, "shard": tar} for row in index.rows(shard).to_pylist() if keep(row)]
        yield ShardRows(tar, info["bytes"], info["sha256"], clips)
