"""What belongs to what in tars: WebDataset's keys, joined and compressed tars, stray members."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources.open import open_source
from orchestrator.data.sources.tar_samples import ClipsBySample, SidecarFile, sample_key
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed, RequestError
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.videos import pack_job, write_tar, write_video

LABEL = b'{"label": 7}'


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("movie") / "a.mp4", frames=6, fps=6).read_bytes()


def index_of(folder: Path, bad_limit: float = 0.0) -> tuple[DatasetIndex, dict[str, str]]:
    """The index of `folder/tars`, and the quarantine: reasons by the name below that folder."""
    (index,) = run_pack(
        pack_job(folder / "tars", folder / "out", bad_limit=bad_limit), SilentProgress(), local=True
    )
    rows = read_quarantine(Storage(index.uri))
    return index, {row.source.removeprefix(f"{folder}/tars/"): row.reason for row in rows}


def beside(index: DatasetIndex) -> dict[str, dict[str, bytes]]:
    """The side files of each clip, by key and extension."""
    return {
        row["key"]: {e["name"]: index.read_bytes(n, e["offset"], e["bytes"]) for e in row["extras"]}
        for n in range(index.num_shards)
        for row in index.shard_rows(n).to_pylist()
    }


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("k.left.mp4", "k"),
        ("a.b/k.json", "a.b/k"),
        ("./k.mp4", "./k"),
        ("a/.hidden.json", "a/.hidden"),
        ("plain", "plain"),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_base_name(name: str, key: str) -> None:
    assert sample_key(name) == key


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["k.left.mp4", "k.right.mp4", "k.json"], {"k.left": "k.json", "k.right": "k.json"}),
        (["k.json", "k.left.mp4"], {"k.left": "k.json"}),  # before its clip
        (["a.b/k.x.mp4", "a.b/k.json"], {"a.b/k.x": "a.b/k.json"}),
        (["K.mp4", "K.JSON"], {"K": "K.JSON"}),
        (["k.mp4", "k.left.mp4", "k.json"], {"k": "k.json", "k.left": "k.json"}),
        (["k.left.mp4", "k.right.mp4", "k.left.json", "k.json"],
            {"k.left": "k.left.json", "k.right": "k.json"}),
        (["k.json", "k.left.json", "k.left.mp4", "k.right.mp4"],
            {"k.left": "k.left.json", "k.right": "k.json"}),
        (["v.2020.01.mp4", "v.2020.02.mp4", "v.2020.02.json"], {"v.2020.02": "v.2020.02.json"}),
    ],
)  # fmt: skip
def test_a_label_is_that_of_every_clip_of_its_sample(
    tmp_path: Path, movie: bytes, names: list[str], wanted: dict[str, str]
) -> None:
    bodies = {name: movie if name.endswith(".mp4") else name.encode() for name in names}
    write_tar(tmp_path / "tars/x.tar", bodies)
    index, reasons = index_of(tmp_path)
    found = {key: extras["json"].decode() for key, extras in beside(index).items() if extras}
    assert found == wanted
    assert reasons == {}
    assert verify_dataset(index) == []


def test_actions_of_a_sample_are_those_of_both_cameras(tmp_path: Path, movie: bytes) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((6, 2), np.float32))
    names = {"k.left.mp4": movie, "k.right.mp4": movie, "k.Actions.npy": file.getvalue()}
    write_tar(tmp_path / "tars/x.tar", names)
    index, reasons = index_of(tmp_path)
    assert reasons == {}
    for row in index.shard_rows(0).to_pylist():
        assert [(e["name"], e["width"]) for e in row["extras"]] == [("actions.npy", 2)]


STRAY = {
    "a.json": "belongs to no clip",
    "a.cls": "belongs to no clip",
    "a.txt": "belongs to no clip",
    "a.states.npy": "belongs to no clip",
    "a.wav": "belongs to no clip",
    "none": "belongs to no clip",
    "dir/k.json": "belongs to no clip",
    "K.json": "belongs to no clip: sample 'k' differs in upper and lower case",
    "b.jpg": "a picture in a tar, of which only videos are read",
    "._k.mp4": "macOS metadata, not a video",
}


@pytest.mark.parametrize("name", STRAY)
def test_a_file_that_belongs_to_no_clip_is_a_row_and_costs_nothing(
    tmp_path: Path, movie: bytes, name: str
) -> None:
    write_tar(tmp_path / "tars/x.tar", {"k.mp4": movie, "k.json": LABEL, "k.jpg": b"1", name: b"1"})
    index, reasons = index_of(tmp_path)  # with bad_limit 0
    assert reasons == {f"x.tar/{name}": STRAY[name]}
    assert set(beside(index)["k"]) == {"json", "jpg"}


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", ".DS_Store", "._k.json", "data/license.txt"]
)
def test_documents_and_hidden_files_are_no_rows(tmp_path: Path, movie: bytes, name: str) -> None:
    write_tar(tmp_path / "tars/x.tar", {"k.mp4": movie, name: b"1"})
    assert index_of(tmp_path)[1] == {}


def test_the_label_of_a_clip_that_is_a_row_is_none_itself(tmp_path: Path, movie: bytes) -> None:
    write_tar(tmp_path / "tars/x.tar", {"k.mp4": movie, "bad.mp4": b"?", "bad.json": LABEL})
    assert list(index_of(tmp_path, bad_limit=1)[1]) == ["x.tar/bad.mp4"]


def test_of_two_side_files_with_one_name_the_first_is_used(tmp_path: Path, movie: bytes) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/x.tar", "w") as tar:
        for name, body in (("k.mp4", movie), ("k.json", b"1"), ("k.json", b"2"), ("k.JSON", b"3")):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    (index,) = run_pack(
        pack_job(tmp_path / "tars", tmp_path / "out", bad_limit=0.0), SilentProgress(), local=True
    )
    assert beside(index) == {"k": {"json": b"1"}}
    rows = read_quarantine(Storage(index.uri))
    assert [row.source.rpartition("/")[2] for row in rows] == ["k.json", "k.JSON"]
    assert {row.reason for row in rows} == {"each clip of 'k' has a file of this kind already"}


def test_a_label_that_is_a_hard_link_is_read_where_it_points(tmp_path: Path, movie: bytes) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", {"a.mp4": movie, "a.json": LABEL, "b.mp4": movie})
    with tarfile.open(tar, "a") as out:
        link = tarfile.TarInfo("b.json")
        link.type, link.linkname = tarfile.LNKTYPE, "a.json"
        out.addfile(link)
    index, reasons = index_of(tmp_path)
    assert reasons == {}
    assert beside(index) == {"a": {"json": LABEL}, "b": {"json": LABEL}}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("padding", [0, 512, 1 << 20])
def test_tars_joined_end_to_end_are_all_read(
    tmp_path: Path, movie: bytes, count: int, padding: int
) -> None:
    parts = [
        write_tar(tmp_path / f"{n}.tar", {f"{n}.mp4": movie, f"{n}.json": LABEL}).read_bytes()
        for n in range(count)
    ]
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/x.tar").write_bytes((b"\0" * padding).join(parts))
    index, reasons = index_of(tmp_path)
    assert reasons == {}
    assert beside(index) == {f"{n}": {"json": LABEL} for n in range(count)}
    assert verify_dataset(index) == []  # the hash of the whole file among it
    for row in index.shard_rows(0).to_pylist():
        assert index.read_bytes(0, row["offset"], row["bytes"], row["sha256"]) == movie


def test_what_is_no_tar_behind_the_end_mark_is_a_row(tmp_path: Path, movie: bytes) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", {"k.mp4": movie})
    size = len(tar.read_bytes())
    tar.write_bytes(tar.read_bytes() + b"the rest of something else" * 100)
    index, reasons = index_of(tmp_path)
    assert index.num_clips == 1
    reason = f"the data after the end-of-archive mark, from byte {size} on, is not a tar"
    assert reasons == {"x.tar": reason}
    assert verify_dataset(index) == []


def test_a_joined_tar_that_is_cut_keeps_what_came_before(tmp_path: Path, movie: bytes) -> None:
    one = write_tar(tmp_path / "1.tar", {"a.mp4": movie}).read_bytes()
    two = write_tar(tmp_path / "2.tar", {"b.mp4": movie, "c.mp4": movie}).read_bytes()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/x.tar").write_bytes(one + two[: 512 + len(movie) + 700])
    index, reasons = index_of(tmp_path, bad_limit=0.5)
    assert set(beside(index)) == {"a", "b"}
    assert "the tar is truncated" in reasons["x.tar"]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("2.tar.gz", gzip.compress),
        ("2.tgz", gzip.compress),
        ("2.TAR.GZ", gzip.compress),
        ("2.tar.bz2", bz2.compress),
        ("2.tar.xz", lzma.compress),
        ("2.tar.zst", lambda body: b"(\xb5/\xfd" + body),
    ],
)
def test_a_compressed_tar_is_a_row_beside_tars_and_refused_alone(
    tmp_path: Path, movie: bytes, name: str, compress: Callable[[bytes], bytes]
) -> None:
    one = write_tar(tmp_path / "tars/1.tar", {"a.mp4": movie})
    (tmp_path / "tars" / name).write_bytes(compress(one.read_bytes()))
    index, reasons = index_of(tmp_path)
    assert index.num_clips == 1
    assert list(reasons) == [name]
    assert "unpack it to .tar" in reasons[name]
    one.unlink()
    for source in (tmp_path / "tars", tmp_path / "tars" / name):
        with pytest.raises(RequestError, match=rf"(?s){name}.*unpack it to \.tar"):
            open_source(str(source))
    with pytest.raises(RequestError, match=r"unpack it to \.tar"):
        open_source(str(tmp_path / "tars" / "{1..2}.tar.gz"))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_data_in_a_tar_s_name_is_told_to_be_that(
    tmp_path: Path, movie: bytes, compress: Callable[[bytes], bytes]
) -> None:
    one = write_tar(tmp_path / "tars/1.tar", {"a.mp4": movie})
    (tmp_path / "tars/2.tar").write_bytes(compress(one.read_bytes()))
    index, reasons = index_of(tmp_path, bad_limit=0.5)
    assert index.num_clips == 1
    assert reasons["2.tar"].startswith("not a tar: ")
    assert reasons["2.tar"].endswith(" data: unpack it")


@pytest.mark.parametrize("members", [{}, {"a.json": LABEL}, {"a.jpg": b"1", "a.cls": b"2"}])
def test_a_tar_without_a_video_says_so(
    tmp_path: Path, movie: bytes, members: dict[str, bytes]
) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", members)
    with pytest.raises(JobFailed, match=r"x\.tar: holds no video"):
        index_of(tmp_path)
    write_tar(tmp_path / "tars/y.tar", {"k.mp4": movie})
    index, reasons = index_of(tmp_path)
    assert index.num_clips == 1
    assert reasons["x.tar"] == "holds no video"
    assert len(reasons) == 1 + len(members)
    assert tar.exists()


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_s_name_of_any_bytes_is_a_key(tmp_path: Path, movie: bytes, kind: int) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(
        tmp_path / "tars/x.tar", "w", format=kind, encoding="latin-1", errors="strict"
    ) as tar:
        for name, body in (("caf\xe9.mp4", movie), ("caf\xe9.json", LABEL)):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    index, reasons = index_of(tmp_path)
    key = "caf\\xe9" if kind == tarfile.GNU_FORMAT else "caf\xe9"
    assert beside(index) == {key: {"json": LABEL}}
    assert reasons == {}


def test_each_of_many_clips_has_its_own_file_and_its_sample_s() -> None:
    keys = [f"movie.{n:06d}" for n in range(20_000)]
    files = [SidecarFile(f"{key}.json", n, 1) for n, key in enumerate(keys)]
    found = ClipsBySample(keys).assign([*files, SidecarFile("movie.cls", 20_000, 1)])
    assert found.unused == []
    assert all(set(found.by_clip[key]) == {"json", "cls"} for key in keys)


@pytest.mark.parametrize(
    ("name", "kind", "reason", "share"),
    [
        ("b.mp4", tarfile.SYMTYPE, "not a plain file", 1),
        ("b.json", tarfile.SYMTYPE, "not a plain file", 0),
        ("b.mp4", tarfile.LNKTYPE, "not a plain file", 1),
        ("b.json", tarfile.LNKTYPE, "not a plain file", 0),  # to a video
        ("latest", tarfile.SYMTYPE, "not a plain file", 0),
        ("pipe", tarfile.FIFOTYPE, "not a plain file", 0),
        ("volume", b"V", None, 0),
        ("folder", tarfile.DIRTYPE, None, 0),
    ],
)
def test_members_that_are_no_files_cost_only_what_is_a_video(
    tmp_path: Path, movie: bytes, name: str, kind: bytes, reason: str | None, share: int
) -> None:
    tar = write_tar(tmp_path / "tars/x.tar", {"a.mp4": movie})
    with tarfile.open(tar, "a") as out:
        other = tarfile.TarInfo(name)
        other.type, other.linkname = kind, "a.mp4"
        out.addfile(other)
    index, reasons = index_of(tmp_path, bad_limit=share / 2)
    assert index.num_clips == 1
    assert reasons == ({f"x.tar/{name}": reason} if reason else {})
    if share:
        with pytest.raises(JobFailed, match=r"more than bad_limit 0\.4 allows"):
            run_pack(
                pack_job(tmp_path / "tars", tmp_path / "strict", bad_limit=0.4),
                SilentProgress(),
                local=True,
            )


def test_a_sparse_member_says_how_to_mend_it(tmp_path: Path, movie: bytes) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/x.tar", "w") as tar:
        for name, headers in (("a.mp4", {}), ("b.mp4", {"GNU.sparse.map": "0,512",
            "GNU.sparse.size": "4096", "GNU.sparse.numblocks": "1"})):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(movie), headers
            tar.addfile(info, io.BytesIO(movie))
    index, reasons = index_of(tmp_path, bad_limit=0.5)
    assert index.num_clips == 1
    assert reasons == {"x.tar/b.mp4": "is stored sparse: make the tar without --sparse"}
