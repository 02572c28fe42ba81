"""The index opens in O(shards), gives exactly the bytes that were indexed, and says when not."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.store import index_writer
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.index_writer import IndexedShard, write_index
from orchestrator.errors import DataError, RequestError
from orchestrator.storage import Storage


def clip(key: str, shard: str, offset: int, payload: bytes) -> dict[str, Any]:
    return {
        "key": key,
        "shard": shard,
        "offset": offset,
        "bytes": len(payload),
        "frames": 40,
        "fps": 20.0,
        "width": 64,
        "height": 48,
        "duration_s": 2.0,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "source": f"/videos/{key}.mp4",
        "codec": "h264",
        "extras": [],
    }


def dataset(folder: Path, counts: list[int]) -> DatasetIndex:
    """Shards that are plain files: the index does not care what surrounds a payload."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for s, count in enumerate(counts):
        name, body, clips = f"shard-{s}.tar", b"", []
        for c in range(count):
            payload = f"clip {s}.{c}".encode() * (c + 1)
            body += b"head"
            clips.append(clip(f"{s}-{c}", name, len(body), payload))
            body += payload
        (folder / name).write_bytes(body)
        shards.append(IndexedShard(name, len(body), hashlib.sha256(body).hexdigest(), clips))
    return write_index(Storage(str(folder)), shards)


def test_every_clip_comes_back_as_it_was_indexed(tmp_path: Path) -> None:
    index = dataset(tmp_path, [3, 1, 5])
    assert index.clips_per_shard.tolist() == [3, 1, 5]
    assert (index.num_clips, index.seconds) == (9, 18.0)
    for shard in range(3):
        for c, row in enumerate(index.shard_rows(shard).to_pylist()):
            payload = index.read_bytes(shard, row["offset"], row["bytes"], row["sha256"])
            assert payload == f"clip {shard}.{c}".encode() * (c + 1)


@pytest.mark.parametrize("counts", [[2, 1], [1, 2, 3, 4, 5, 6, 7]])
def test_a_folder_of_parts_reads_like_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: list[int]
) -> None:
    monkeypatch.setattr(index_writer, "SHARDS_PER_PART", 3)
    index = dataset(tmp_path, counts)
    assert (tmp_path / "index.parquet").is_dir() == (len(counts) > 3)
    keys = [row["key"] for s in range(index.num_shards) for row in index.shard_rows(s).to_pylist()]
    assert keys == [f"{s}-{c}" for s, count in enumerate(counts) for c in range(count)]


def test_parts_named_by_someone_else_are_found_by_their_footers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writer, "SHARDS_PER_PART", 2)
    dataset(tmp_path, [1, 2, 3, 4, 5])
    for number, part in enumerate(sorted((tmp_path / "index.parquet").iterdir())):
        part.rename(part.with_name(f"{number}-theirs.parquet"))
    index = DatasetIndex.open(str(tmp_path))
    assert index.shard_rows(4).to_pylist()[4]["key"] == "4-4"
    assert index.shard_rows(2).to_pylist()[0]["key"] == "2-0"


def test_only_the_columns_of_the_contract_are_needed(tmp_path: Path) -> None:
    dataset(tmp_path, [2, 2])
    table = pq.read_table(tmp_path / "index.parquet").drop_columns(["codec", "extras"])
    with pq.ParquetWriter(tmp_path / "index.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 2))
        writer.write_table(table.slice(2, 2))
    shards = pq.read_table(tmp_path / "shards.parquet").drop_columns(["seconds"])
    pq.write_table(shards.replace_schema_metadata({}), tmp_path / "shards.parquet")
    index = DatasetIndex.open(str(tmp_path))
    assert (index.num_clips, index.seconds) == (4, 8.0)
    assert index.shard_rows(1).to_pylist()[0]["key"] == "1-0"


def test_the_digest_follows_content_and_not_place(tmp_path: Path) -> None:
    first = dataset(tmp_path / "a", [2, 3])
    assert dataset(tmp_path / "b", [2, 3]).digest == first.digest
    assert dataset(tmp_path / "c", [3, 2]).digest != first.digest
    path = tmp_path / "a" / "shards.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    assert DatasetIndex.open(str(tmp_path / "a")).digest == first.digest


def test_it_travels_small_and_reads_on_the_other_side(tmp_path: Path) -> None:
    index = dataset(tmp_path, [2, 3])
    index.shard_rows(0)
    packed = pickle.dumps(index)
    assert len(packed) < 1000
    other: DatasetIndex = pickle.loads(packed)
    assert other.shard_rows(1).equals(index.shard_rows(1))
    assert other.clips_per_shard.tolist() == [2, 3]


def test_an_index_that_does_not_match_its_tars_says_so(tmp_path: Path) -> None:
    index = dataset(tmp_path, [2, 2])
    row = index.shard_rows(1).to_pylist()[1]
    tar = tmp_path / "shard-1.tar"
    body = tar.read_bytes()
    tar.write_bytes(body[:-1] + b"x")
    with pytest.raises(DataError, match="sha256 differs"):
        index.read_bytes(1, row["offset"], row["bytes"], row["sha256"])
    index.close()
    tar.write_bytes(body[:-5])
    with pytest.raises(DataError, match="ends 5 bytes before"):
        index.read_bytes(1, row["offset"], row["bytes"], row["sha256"])
    index.close()
    tar.unlink()
    with pytest.raises(DataError, match="cannot open the tar"):
        index.read_bytes(1, row["offset"], row["bytes"])


def test_parquet_files_of_two_datasets_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path / "a", [2, 3])
    dataset(tmp_path / "b", [2, 4])
    dataset(tmp_path / "c", [2])
    (tmp_path / "a/shards.parquet").write_bytes((tmp_path / "b/shards.parquet").read_bytes())
    with pytest.raises(DataError, match="has 3 rows"):
        DatasetIndex.open(str(tmp_path / "a")).shard_rows(1)
    (tmp_path / "a/shards.parquet").write_bytes((tmp_path / "c/shards.parquet").read_bytes())
    with pytest.raises(DataError, match="row groups"):
        DatasetIndex.open(str(tmp_path / "a"))


def test_no_dataset_or_a_broken_one_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no dataset here"):
        DatasetIndex.open(str(tmp_path / "nowhere"))
    dataset(tmp_path, [2])
    (tmp_path / "shards.parquet").write_bytes(b"not parquet")
    with pytest.raises(RequestError, match="cannot be read"):
        DatasetIndex.open(str(tmp_path))


def test_a_million_shards_open_without_reading_clips(tmp_path: Path) -> None:
    """Only three numbers per shard are read; the rows of all but the last part are absent."""
    shards, last = 1_000_000, 999_936
    dataset(tmp_path, [1])
    row = pq.read_table(tmp_path / "index.parquet")
    (tmp_path / "index.parquet").unlink()
    (tmp_path / "index.parquet").mkdir()
    for first, groups in ((0, 1), (last, shards - last)):
        part = tmp_path / "index.parquet" / f"part-{first:09d}.parquet"
        with pq.ParquetWriter(part, row.schema) as writer:
            for _ in range(groups):
                writer.write_table(row)
    table = pa.table(
        {
            "shard": pa.array(["s"] * shards),
            "count": np.full(shards, 1000, np.int64),
            "bytes": np.full(shards, 5, np.int64),
            "sha256": pa.array(["0"] * shards),
            "seconds": np.full(shards, 1.0),
        }
    ).replace_schema_metadata({"digest": "0" * 16})
    pq.write_table(table, tmp_path / "shards.parquet", row_group_size=65536)
    index = DatasetIndex.open(str(tmp_path))
    assert index.num_clips == 1_000_000_000
    assert index.shard_info(777_777)["count"] == 1000
    assert index.clips_per_shard.nbytes == 8 * shards
    assert len(pickle.dumps(index)) < 1000
