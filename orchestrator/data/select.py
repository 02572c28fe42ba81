"""A dataset of those clips of another that are long enough; the tars stay where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from orchestrator.data.index import Index
from orchestrator.data.index_writer import ShardRows, write_index
from orchestrator.data.unit import COMPLETE
from orchestrator.errors import RequestError
from orchestrator.storage import Storage


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
    if storage.exists(COMPLETE):
        return Index.open(storage.root)
    chosen = write_index(storage, _chosen(index, seconds))
    facts = {"layout": 1, "from": index.uri, "longer_than_s": seconds, "clips": chosen.clips}
    storage.write_json(COMPLETE, facts)
    return chosen


def _chosen(index: Index, seconds: float) -> Iterator[ShardRows]:
    for shard in range(index.shards):
        info = index.shard_info(shard)
        tar = index.tar(shard)
        clips = [
            {**row, "shard": tar}
            for row in index.rows(shard).to_pylist()
            if row["duration_s"] > seconds
        ]
        yield ShardRows(tar, info["bytes"], info["sha256"], clips)
