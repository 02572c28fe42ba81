"""Names and folders as disks have them: one file never stops a folder, and none is lost."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources import raw_clips, tar_indexer
from orchestrator.data.sources.base import CHANGED_WHILE_PACKING, RawClip, Rejected, Source
from orchestrator.data.sources.inputs import (
    file_identity,
    path_from_utf8,
    path_to_utf8,
    printable_path,
)
from orchestrator.data.sources.open import open_source
from orchestrator.data.sources.raw_clips import clip_key_prefix
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.storage import FileEntry, Storage
from tests.support.videos import RecordingProgress, pack_job, write_tar, write_video

LATIN = os.fsdecode(b"caf\xe9.mp4")


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("movie") / "a.mp4", frames=6, fps=6).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, movie: bytes) -> Path:
    """A folder with one video, a.mp4."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(movie)
    return tmp_path / "in"


def packed(source: Path, limit: float = 1.0) -> tuple[DatasetIndex, dict[str, str]]:
    """The index and the reasons of the quarantine, by the path below a folder."""
    job = pack_job(source, source.parent / "out", bad_limit=limit)
    (index,) = run_pack(job, RecordingProgress(), local=True)
    rows = read_quarantine(Storage(index.uri))
    return index, {row.source.removeprefix(f"{source}/"): row.reason for row in rows}


def sources_of(index: DatasetIndex) -> list[str]:
    return [row["source"].rpartition("/")[2] for row in index.shard_rows(0).to_pylist()]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9.mp4", "caf\\xe9.mp4"),
        (b"\xff\xfe.mp4", "\\xff\\xfe.mp4"),
        ("日本".encode("shift-jis") + b".mp4", "\\x93\\xfa\\x96{.mp4"),
        (b"\xed\xa0\x80.mp4", "\\xed\\xa0\\x80.mp4"),  # half a surrogate pair
        (b"x" * 240 + b"\xe9.mp4", "x" * 240 + "\\xe9.mp4"),
    ],
)
def test_a_name_that_is_not_utf8_is_packed(folder: Path, name: bytes, shown: str) -> None:
    shutil.copy(folder / "a.mp4", os.path.join(os.fsencode(folder), name))
    index, reasons = packed(folder, 0.0)
    assert sorted(sources_of(index)) == sorted(["a.mp4", shown])
    assert reasons == {}
    assert verify_dataset(index) == []


def test_a_folder_and_a_picture_of_such_a_name(folder: Path) -> None:
    (folder / LATIN).mkdir()
    shutil.copy(folder / "a.mp4", folder / LATIN / "b.mp4")
    index, reasons = packed(folder, 0.0)
    assert [row["source"] for row in index.shard_rows(0).to_pylist()] == [
        f"{folder}/a.mp4",
        f"{folder}/caf\\xe9.mp4/b.mp4",
    ]
    assert reasons == {}


def test_what_cannot_be_used_of_such_a_name_is_a_row(folder: Path) -> None:
    (folder / LATIN).write_bytes(b"no video")
    (folder / os.fsdecode(b"\xe9.srt")).write_bytes(b"1")
    index, reasons = packed(folder)
    assert index.num_clips == 1
    assert set(reasons) == {"caf\\xe9.mp4", "\\xe9.srt"}


def test_a_tar_of_such_a_name_is_a_row(tmp_path: Path, movie: bytes) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/1.tar", {"a.mp4": movie})
    shutil.copy(tmp_path / "in/1.tar", tmp_path / "in" / os.fsdecode(b"\xe9.tar"))
    index, reasons = packed(tmp_path / "in")
    assert index.num_clips == 1
    assert list(reasons) == ["\\xe9.tar"]
    assert "not UTF-8" in reasons["\\xe9.tar"]


@pytest.mark.parametrize("path", ["a.mp4", "ü/b.mp4", LATIN, "%41.mp4", "new\nline.mp4"])
def test_a_path_travels_as_text_and_comes_back(path: str) -> None:
    assert path_from_utf8(path_to_utf8(path)) == path
    path_to_utf8(path).encode()
    printable_path(path).encode()


def test_keys_of_names_that_look_alike_differ() -> None:
    assert clip_key_prefix(LATIN) != clip_key_prefix(printable_path(LATIN))


def test_links_in_a_circle_give_each_video_once(folder: Path) -> None:
    (folder / "b").mkdir()
    shutil.copy(folder / "a.mp4", folder / "b/b.mp4")
    (folder / "circle").symlink_to(folder)
    (folder / "b/up").symlink_to("..")
    (folder / "c").mkdir()
    (folder / "c/b").symlink_to("../b")
    (folder / "b/c").symlink_to("../c")
    (folder / "self.mp4").symlink_to("self.mp4")
    (folder / "one.mp4").symlink_to("two.mp4")
    (folder / "two.mp4").symlink_to("one.mp4")
    index, reasons = packed(folder)
    assert sources_of(index) == ["a.mp4", "b.mp4"]
    read, circle = "a link to a folder that is read already", "a link that leads in a circle"
    assert reasons == {
        **dict.fromkeys(("circle", "b/up", "c/b", "b/c"), read),
        **dict.fromkeys(("self.mp4", "one.mp4", "two.mp4"), circle),
    }


def test_links_that_lead_somewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "far/deep").mkdir(parents=True)
    shutil.copy(folder / "a.mp4", tmp_path / "far/deep/b.mp4")
    (folder / "far").symlink_to(tmp_path / "far")
    (folder / "c.mp4").symlink_to(tmp_path / "far/deep/b.mp4")
    index, reasons = packed(folder, 0.0)
    found = [row["source"].removeprefix(f"{folder}/") for row in index.shard_rows(0).to_pylist()]
    assert found == ["a.mp4", "c.mp4", "far/deep/b.mp4"]
    assert reasons == {}


def test_pipes_sockets_and_links_to_nothing_are_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "null.mp4").symlink_to("/dev/null")
    (folder / "gone").symlink_to(tmp_path / "not there")
    monkeypatch.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as here:
        here.bind("s.mp4")
    (folder / "folder.mp4").mkdir()
    index, reasons = packed(folder)
    assert sources_of(index) == ["a.mp4"]
    assert set(reasons) == {"pipe.mp4", "null.mp4", "gone", "s.mp4"}
    assert reasons["pipe.mp4"] == "not a plain file (a pipe, a socket or a device)"
    assert reasons["gone"] == "a link that leads nowhere: No such file or directory"


def test_a_folder_of_nothing_but_links_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RequestError, match=r"1 cannot be read, a\.mp4: a link that leads nowhere"):
        open_source(str(tmp_path / "in"))


def test_folders_deeper_than_a_path_can_be_long(folder: Path) -> None:
    there = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(20):  # of 250 characters: more than PATH_MAX in all
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(there)
    index, reasons = packed(folder)
    assert sources_of(index) == ["a.mp4"]
    ((path, reason),) = reasons.items()
    assert path.startswith("ddd")
    assert "File name too long" in reason


def _denied(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Reading a file of that name fails; root may read everything, so rights cannot."""
    real = raw_clips.open_buffered

    def opened(storage: Storage, path: str) -> Any:
        if path.endswith(name):
            raise OSError(number, os.strerror(number), path)
        return real(storage, path)

    monkeypatch.setattr(raw_clips, "open_buffered", opened)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "cannot be read: Permission denied"),
        (errno.EIO, "cannot be read: Input/output error"),
        (errno.ENOENT, "no such file"),
        (errno.ELOOP, "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_an_error_of_one_file_is_a_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    _denied(monkeypatch, "a.mp4", number)
    index, reasons = packed(folder)
    assert sources_of(index) == ["b.mp4"]
    assert reasons == {"a.mp4": reason}


def test_an_unforeseen_error_of_one_file_is_a_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    real = raw_clips.split_into_clips

    def cut(file: Any, key: str, source: str, *rest: Any) -> Any:
        if source.endswith("a.mp4"):
            raise IndexError("list index out of range")
        return real(file, key, source, *rest)

    monkeypatch.setattr(raw_clips, "split_into_clips", cut)
    index, reasons = packed(folder)
    assert sources_of(index) == ["b.mp4"]
    assert reasons == {"a.mp4": "cannot be read: IndexError: list index out of range"}


def test_a_folder_that_cannot_be_listed_is_a_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shut").mkdir()
    real: Callable[[str], Any] = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    index, reasons = packed(folder)
    assert sources_of(index) == ["a.mp4"]
    assert reasons == {"shut": "cannot be listed: Permission denied"}
    with pytest.raises(PermissionError):  # what asks for no reasons is not deceived
        list(Storage(str(folder)).files())


def _changes(folder: Path, change: Callable[[Path], object]) -> list[RawClip | Rejected]:
    """What a source gives when a file changes after it was listed."""
    source = open_source(str(folder))
    assert isinstance(source, Source)
    units = source.units()
    change(folder / "a.mp4")
    return [clip for unit in units for clip in source.clips(unit, TranscodeConfig())]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, 100),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("a.mp4")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["gone", "emptied", "cut", "touched", "a folder", "a circle", "a pipe"],
)
def test_a_file_that_changes_after_it_was_listed_is_one_row(
    folder: Path, change: Callable[[Path], object]
) -> None:
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    found = _changes(folder, change)
    assert [item.reason for item in found if isinstance(item, Rejected)] == [CHANGED_WHILE_PACKING]
    assert [item.source for item in found if isinstance(item, RawClip)] == [f"{folder}/b.mp4"]


@pytest.mark.parametrize("change", [lambda p: os.truncate(p, 600), lambda p: p.unlink()])
def test_a_file_that_changes_while_it_is_read_costs_one_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    real = raw_clips.check_not_lfs_pointer

    def first(file: Any) -> None:
        if (folder / "a.mp4").exists() and (folder / "a.mp4").stat().st_size > 600:
            change(folder / "a.mp4")
        real(file)

    monkeypatch.setattr(raw_clips, "check_not_lfs_pointer", first)
    job = pack_job(folder, folder.parent / "out", bad_limit=0.5)
    (index,) = run_pack(job, RecordingProgress(), local=True)
    assert sources_of(index) == ["b.mp4"]
    assert CHANGED_WHILE_PACKING in {row.reason for row in read_quarantine(Storage(index.uri))}


def test_a_pointer_of_git_lfs_is_told_to_be_one(folder: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (folder / "b.mp4").write_bytes(pointer)
    index, reasons = packed(folder)
    assert index.num_clips == 1
    assert reasons == {"b.mp4": "a Git LFS pointer, not the file itself: run 'git lfs pull'"}
    movie = (folder / "a.mp4").read_bytes()
    write_tar(tmp_path / "tars/1.tar", {"a.mp4": movie, "b.mp4": pointer})
    (tmp_path / "tars/2.tar").write_bytes(pointer)
    _, in_tars = packed(tmp_path / "tars")
    assert set(in_tars) == {"1.tar/b.mp4", "2.tar"}
    assert set(in_tars.values()) == set(reasons.values())


def test_a_tar_that_cannot_be_read_costs_itself_only(
    tmp_path: Path, movie: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:

    for name in ("1.tar", "2.tar"):
        write_tar(tmp_path / "in" / name, {"a.mp4": movie})
    real = tar_indexer.open_buffered

    def opened(storage: Storage, path: str) -> Any:
        if path == "1.tar":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(storage, path)

    monkeypatch.setattr(tar_indexer, "open_buffered", opened)
    index, reasons = packed(tmp_path / "in")
    assert index.num_clips == 1
    assert reasons == {"1.tar": "cannot be read: Permission denied"}


@pytest.mark.parametrize("name", ["index.parquet", "meta/info.json", "data"])
def test_a_folder_that_cannot_be_looked_into_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def denied(real: Callable[[Storage, str], bool]) -> Callable[..., bool]:
        def looked(self: Storage, path: str = "") -> bool:
            if path == name:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real(self, path)

        return looked

    monkeypatch.setattr(Storage, "exists", denied(Storage.exists))
    monkeypatch.setattr(Storage, "is_dir", denied(Storage.is_dir))
    with pytest.raises(RequestError, match=r"cannot be read: .*Permission denied"):
        open_source(str(folder))


def test_files_are_listed_as_a_store_would_list_them(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "b/ü.txt").write_bytes(b"12")
    os.utime(folder / "b/ü.txt", ns=(1, 1_699_999_999_123_456_789))
    storage = Storage(str(folder))
    size = (folder / "a.mp4").stat().st_size
    assert [(f.path, f.size) for f in storage.files()] == [("a.mp4", size), ("b/ü.txt", 2)]
    assert list(storage.files("b")) == [FileEntry("b/ü.txt", 2, 1_699_999_999_123_456_789)]
    assert [f.path for f in storage.files(recursive=False)] == ["a.mp4"]
    assert list(storage.files("nowhere")) == []
    assert storage.folders() == ["b"]
    assert storage.folders("nowhere") == []


@pytest.mark.parametrize("name", ["x" * 300, "a.mp4/b", "nul\0.mp4", "gone.mp4", "/" * 5000])
def test_no_name_is_too_odd_to_be_looked_at(folder: Path, name: str) -> None:
    state = file_identity(Storage(str(folder)), name)
    assert state == "missing" or state.startswith("unusable: ")
