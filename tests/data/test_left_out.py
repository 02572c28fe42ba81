"""Nothing in a folder is left out without a word: what is not read is a row of the quarantine."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.data.inspection.report import inspect_dataset
from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.open import open_source
from orchestrator.data.sources.tars import TarSource
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed
from orchestrator.storage import Storage
from tests.support.videos import RecordingProgress, data_job, pack_job, write_tar, write_video


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("movie") / "a.mp4", frames=6, fps=6).read_bytes()


def put(folder: Path, name: str, movie: bytes) -> None:
    """A file of the kind that its name says."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".tar"):
        write_tar(folder / name, {f"{Path(name).stem}.mp4": movie})
    elif name.endswith((".gz", ".tgz")):
        (folder / name).write_bytes(gzip.compress(b"1"))
    elif name.endswith(".png"):
        Image.new("RGB", (32, 32)).save(folder / name)
    else:
        (folder / name).write_bytes(movie if name.endswith(".mp4") else b"{}")


def packed(
    folder: Path, storage: Path, told: RecordingProgress | None = None, limit: float = 0.0
) -> DatasetIndex:
    (index,) = run_pack(
        pack_job(folder, storage, bad_limit=limit), told or RecordingProgress(), local=True
    )
    return index


def rows_of(index: DatasetIndex, folder: Path) -> dict[str, str]:
    """Reasons by the path below a folder."""
    rows = read_quarantine(Storage(index.uri))
    assert len({row.source for row in rows}) == len(rows)
    return {row.source.removeprefix(f"{folder}/"): row.reason for row in rows}


ALONE = "move it to a folder of its own and name that as a source"
UNPACK = "left out: a compressed tar, which cannot be read at random: unpack it to .tar"


@pytest.mark.parametrize(
    ("names", "clips", "wanted"),
    [
        (["a.mp4", "1.tar"], 1, {"1.tar": f"left out: a tar among videos: {ALONE}"}),
        (["a.mp4", "1.tar", "2.tar"], 2, {"a.mp4": f"left out: a video among tars: {ALONE}"}),
        (["1.tar", "2.tar.gz", "d/3.tgz"], 1, {"2.tar.gz": UNPACK, "d/3.tgz": UNPACK}),
        (["a.mp4", "2.tar.gz"], 1, {"2.tar.gz": UNPACK}),
        (["a.mp4", "a.png"], 1, {"a.png": f"left out: a picture among videos: {ALONE}"}),
        (["1.tar", "a.png"], 1, {"a.png": f"left out: a picture among tars: {ALONE}"}),
        (["a.png", "2.tar.gz"], 1, {"2.tar.gz": UNPACK}),
        (["a.mp4", "a.json"], 1, {"a.json": "left out: a .json among videos is not read: put"
            " labels in a manifest or in tars"}),
        (["a.mp4", "a.srt"], 1, {"a.srt": "left out: no extension of videos"}),
        (["a.mp4", "mp4.d/none"], 1, {"mp4.d/none": "left out: no extension of videos"}),
        (["a.png", "a.txt"], 1, {"a.txt": "left out: a .txt among pictures is not read: put"
            " labels in a manifest or in tars"}),
        (["a.mp4", "README.md", "license", "NOTES.txt", ".hidden/b.mp4", "Thumbs.db"], 1, {}),
    ],
)  # fmt: skip
def test_what_a_folder_s_source_does_not_read_is_a_row_and_costs_nothing(
    tmp_path: Path, movie: bytes, names: list[str], clips: int, wanted: dict[str, str]
) -> None:
    for name in names:
        put(tmp_path / "in", name, movie)
    told = RecordingProgress()
    index = packed(tmp_path / "in", tmp_path / "out", told)
    assert index.num_clips == clips
    assert rows_of(index, tmp_path / "in") == wanted
    assert len(told.messages) == bool(wanted)
    assert all(name in told.messages[0] for name in wanted)


def test_of_tars_and_videos_the_more_numerous_are_read(tmp_path: Path, movie: bytes) -> None:
    for name in ("a.mp4", "1.tar"):
        put(tmp_path, name, movie)
    assert isinstance(open_source(str(tmp_path)), FolderSource)  # as ever
    put(tmp_path, "2.tar", movie)
    assert isinstance(open_source(str(tmp_path)), TarSource)


def test_a_storage_in_the_source_s_folder_changes_nothing(tmp_path: Path, movie: bytes) -> None:
    put(tmp_path, "a.mp4", movie)
    first = packed(tmp_path, tmp_path / "runs here")
    for number in range(3):
        shutil.copy(next(Path(first.uri).glob("*.tar")), Path(first.uri) / f"{number}.tar")
    again = packed(tmp_path, tmp_path / "runs here")
    assert again.uri == first.uri
    assert rows_of(again, tmp_path) == {}


def test_what_comes_later_is_named_when_the_dataset_is_opened(tmp_path: Path, movie: bytes) -> None:
    put(tmp_path / "in", "1.tar", movie)
    first = packed(tmp_path / "in", tmp_path / "out")
    put(tmp_path / "in", "2.tar.gz", movie)
    told = RecordingProgress()
    again = packed(tmp_path / "in", tmp_path / "out", told)
    assert again.uri == first.uri
    assert rows_of(again, tmp_path / "in") == {"2.tar.gz": UNPACK}
    assert "2.tar.gz" in told.messages[0]
    quiet = RecordingProgress()
    packed(tmp_path / "in", tmp_path / "out", quiet)
    assert quiet.messages == []


def test_a_folder_is_the_same_dataset_with_and_without_what_is_not_read(
    tmp_path: Path, movie: bytes
) -> None:
    put(tmp_path / "in", "a.mp4", movie)
    first = packed(tmp_path / "in", tmp_path / "out")
    put(tmp_path / "in", "a.srt", movie)
    assert packed(tmp_path / "in", tmp_path / "out").uri == first.uri


def test_inspecting_raw_video_counts_what_is_not_read(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", frames=60)
    (tmp_path / "in/a.srt").write_text("1")
    job = data_job(tmp_path / "out", source=str(tmp_path / "in"), frames=2)
    report = inspect_dataset(job, tmp_path / "sheet.png", 1)
    assert report.quarantine == {"left out: no extension of videos": 1}


def test_an_input_that_cannot_be_read_counts_as_one_that_is_lost(
    tmp_path: Path, movie: bytes
) -> None:
    put(tmp_path / "in", "a.mp4", movie)
    (tmp_path / "in/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(JobFailed, match=r"1 of 2 inputs cannot be used.*gone\.mp4: a link that"):
        packed(tmp_path / "in", tmp_path / "out", limit=0.4)
    index = packed(tmp_path / "in", tmp_path / "out", limit=0.5)
    rows = rows_of(index, tmp_path / "in")
    assert rows == {"gone.mp4": "a link that leads nowhere: No such file or directory"}
    assert json.loads((Path(index.uri) / "dataset.json").read_text())["quarantined"] == 1
