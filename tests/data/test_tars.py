"""Tars from elsewhere: what is readable is indexed in place, the rest is a quarantine row."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.videos import pack_job, write_audio, write_tar, write_video


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("movie") / "a.mp4", frames=24, fps=12).read_bytes()


def index_of(folder: Path, bad_limit: float = 1.0) -> tuple[DatasetIndex, dict[str, str]]:
    """The index, and the reasons of the quarantine by the end of the source's name."""
    job = pack_job(folder / "tars", folder / "out", bad_limit=bad_limit)
    (index,) = run_pack(job, SilentProgress(), local=True)
    rows = read_quarantine(Storage(index.uri))
    return index, {row.source.rpartition("/")[2]: row.reason for row in rows}


def test_clips_are_found_where_they_lie_with_their_sidecars(tmp_path: Path, movie: bytes) -> None:
    other = movie + b"tail"
    members = {
        "./a/one.mp4": movie,
        "./a/one.json": b'{"label": 3}',
        "./a/one.states.npy": b"states",
        "two.v2.mp4": other,
        "two.v2.json": b"{}",
        "readme.txt": b"hello",
    }
    tar = write_tar(tmp_path / "tars/x.tar", members)
    before = tar.read_bytes()
    index, reasons = index_of(tmp_path)
    assert reasons == {}
    assert tar.read_bytes() == before
    assert not list(Path(index.uri).glob("*.tar"))
    one, two = index.shard_rows(0).to_pylist()
    assert (one["key"], two["key"]) == ("a/one", "two.v2")
    assert index.read_bytes(0, one["offset"], one["bytes"]) == movie
    assert index.read_bytes(0, two["offset"], two["bytes"], two["sha256"]) == other
    assert (one["frames"], one["width"], one["height"], one["codec"]) == (24, 96, 64, "h264")
    assert one["duration_s"] == pytest.approx(2.0)
    extras = {extra["name"]: (extra["offset"], extra["bytes"]) for extra in one["extras"]}
    assert index.read_bytes(0, *extras["states.npy"]) == b"states"
    assert json.loads(index.read_bytes(0, *extras["json"])) == {"label": 3}
    info = index.shard_info(0)
    assert info["sha256"] == hashlib.sha256(before).hexdigest()
    assert verify_dataset(index) == []


def test_a_tar_that_is_cut_keeps_what_came_before(tmp_path: Path, movie: bytes) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", {f"{i}.mp4": movie for i in range(4)})
    step = 512 + -(-len(movie) // 512) * 512
    data = tar.read_bytes()
    for name, end in {"in": 2 * step + 700, "header": 2 * step + 100, "edge": 2 * step}.items():
        tar.write_bytes(data[:end])
        index, reasons = index_of(tmp_path)
        assert [row["key"] for row in index.shard_rows(0).to_pylist()] == ["0", "1"], name
        assert list(reasons) == ["x.tar"], name
        assert "the tar is truncated" in reasons["x.tar"]


def test_a_damaged_header_does_not_hide_the_rest_silently(tmp_path: Path, movie: bytes) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", {f"{i}.mp4": movie for i in range(4)})
    data = bytearray(tar.read_bytes())
    at = 2 * (512 + -(-len(movie) // 512) * 512)
    data[at + 10 : at + 160] = b"?" * 150
    tar.write_bytes(data)
    index, reasons = index_of(tmp_path)
    assert index.num_clips == 2
    assert f"damaged at byte {at}" in reasons["x.tar"]


def test_members_that_cannot_be_used_are_quarantined(tmp_path: Path, movie: bytes) -> None:
    sound = write_audio(tmp_path / "s.mp4").read_bytes()
    members = {
        "good.mp4": movie,
        "../up.mp4": movie,
        "/root.mp4": movie,
        "a/../../b.mp4": movie,
        "good.mp4#2": movie,
        "empty.mp4": b"",
        "text.mp4": b"no video" * 100,
        "sound.mp4": sound,
        "half.mp4": movie[: len(movie) // 2],
    }
    tar = write_tar(tmp_path / "tars/x.tar", members)
    with tarfile.open(tar, "a") as out:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    index, _ = index_of(tmp_path)
    assert [row["key"] for row in index.shard_rows(0).to_pylist()] == ["good"]
    rows = {r.source.partition("x.tar/")[2]: r.reason for r in read_quarantine(Storage(index.uri))}
    assert "unsafe name" in rows["../up.mp4"]
    assert "unsafe name" in rows["/root.mp4"]
    assert "unsafe name" in rows["a/../../b.mp4"]
    assert rows["good.mp4"] == "duplicate key 'good'"
    assert rows["empty.mp4"] == "zero bytes"
    assert "not a readable video" in rows["text.mp4"]
    assert "audio only" in rows["sound.mp4"]
    assert "half.mp4" in rows
    assert rows["link.mp4"] == "not a plain file"
    assert len(rows) == 9


def test_a_file_that_is_no_tar_is_one_row(tmp_path: Path, movie: bytes) -> None:
    write_tar(tmp_path / "tars/a.tar", {"a.mp4": movie})
    (tmp_path / "tars/b.tar").write_bytes(b"this is no tar " * 200)
    (tmp_path / "tars/c.tar").write_bytes(b"")
    index, reasons = index_of(tmp_path)
    assert index.num_clips == 1
    assert set(reasons) == {"b.tar", "c.tar"}
    assert "not a tar" in reasons["b.tar"]


def test_tars_that_each_count_from_zero_get_keys_of_their_own(tmp_path: Path, movie: bytes) -> None:
    for name in ("x-0", "x-1"):
        write_tar(tmp_path / f"tars/{name}.tar", {"000.mp4": movie, "001.mp4": movie})
    index, reasons = index_of(tmp_path)
    keys = [row["key"] for shard in range(2) for row in index.shard_rows(shard).to_pylist()]
    assert keys == ["x-0/000", "x-0/001", "x-1/000", "x-1/001"]
    assert reasons == {}


def test_a_changed_tar_is_indexed_anew(tmp_path: Path, movie: bytes) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", {"a.mp4": movie})
    first, _ = index_of(tmp_path)
    write_tar(tar, {"a.mp4": movie, "b.mp4": movie})
    second, _ = index_of(tmp_path)
    assert (first.num_clips, second.num_clips) == (1, 2)
    assert first.uri != second.uri
    assert "indexed" in verify_dataset(first)[0]


def test_too_much_that_is_bad_stops_and_says_which(tmp_path: Path, movie: bytes) -> None:
    write_tar(tmp_path / "tars/x.tar", {"a.mp4": movie, "b.mp4": b"?", "c.mp4": movie})
    with pytest.raises(JobFailed, match=r"b\.mp4: not a readable video"):
        index_of(tmp_path, bad_limit=0.3)
    index, _ = index_of(tmp_path, bad_limit=0.34)
    assert index.num_clips == 2


def test_an_old_tar_format_with_long_names_is_read(tmp_path: Path, movie: bytes) -> None:
    (tmp_path / "tars").mkdir()
    for name, kind in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w", format=kind) as tar:
            info = tarfile.TarInfo("d" * 150 + "/" + name + "ü" * 60 + ".mp4")
            info.size = len(movie)
            tar.addfile(info, io.BytesIO(movie))
    index, reasons = index_of(tmp_path)
    assert (index.num_clips, reasons) == (2, {})
    for shard in range(2):
        (row,) = index.shard_rows(shard).to_pylist()
        assert index.read_bytes(shard, row["offset"], row["bytes"]) == movie
