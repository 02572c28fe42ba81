"""Folders of pictures: packed as they are, broken ones set aside, looked at and trained on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.inspection.report import inspect_dataset
from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.prepare import prepare_data
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources import raw_clips as pictures
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed, RequestError
from orchestrator.storage import Storage
from tests.support.videos import RecordingProgress, data_job, pack_job, write_video

WIDTH, HEIGHT = 70, 48


def coloured(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (6, 7, 3), dtype=np.uint8).repeat(8, 0)[:HEIGHT].repeat(10, 1)


def saved(seed: int, kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(coloured(seed)).convert(mode).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(saved(0, "JPEG", quality=95))
    (folder / "more/b.PNG").write_bytes(saved(1, "PNG"))
    (folder / "more/c.webp").write_bytes(saved(2, "WEBP", lossless=True))
    (folder / "d.jpeg").write_bytes(saved(3, "JPEG", "L"))
    (folder / "notes.txt").write_text("no picture")
    return folder


def packed(folder: Path, storage: Path, **keys: object) -> DatasetIndex:
    return run_pack(pack_job(folder, storage, **keys), RecordingProgress(), local=True)[0]


def test_bytes_are_kept_and_a_picture_has_one_frame(photos: Path, tmp_path: Path) -> None:
    index = packed(photos, tmp_path / "s")
    rows = index.shard_rows(0).to_pylist()
    assert [(r["frames"], r["duration_s"], r["fps"]) for r in rows] == [(1, 0.0, 0.0)] * 4
    assert {(r["width"], r["height"]) for r in rows} == {(WIDTH, HEIGHT)}
    assert [r["codec"] for r in rows] == ["mjpeg", "mjpeg", "png", "webp"]
    files = [photos / n for n in ("a.jpg", "d.jpeg", "more/b.PNG", "more/c.webp")]
    for row, file in zip(rows, files, strict=True):
        payload = index.read_bytes(0, row["offset"], row["bytes"], row["sha256"])
        assert payload == file.read_bytes()
        frames = decode_clip(payload, np.zeros(2))
        wanted = np.asarray(Image.open(file).convert("RGB")).astype(int)
        assert np.abs(frames[1].astype(int) - wanted).mean() < 10
    assert verify_dataset(index, 4) == []
    again = packed(photos, tmp_path / "s")
    assert again.digest == index.digest


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("cut.jpg", lambda: saved(4, "JPEG")[:-300], "damaged"),
        ("cut.png", lambda: saved(4, "PNG")[:-100], "damaged"),
        ("cut.webp", lambda: saved(4, "WEBP")[:-100], "damaged"),
        ("none.png", lambda: b"", "zero bytes"),
        ("text.jpg", lambda: b"not a picture at all" * 50, "not a readable picture"),
        ("moves.png", lambda: saved(4, "PNG", save_all=True,
            append_images=[Image.fromarray(coloured(5))]), "apng, not a jpeg"),
        ("bitmap.jpg", lambda: saved(4, "BMP"), "bmp, not a jpeg"),
    ],
)  # fmt: skip
def test_broken_ones_are_set_aside(
    photos: Path, tmp_path: Path, name: str, body: object, reason: str
) -> None:
    (photos / name).write_bytes(body())  # type: ignore[operator]
    index = packed(photos, tmp_path / "s", bad_limit=0.5)
    assert index.num_clips == 4
    found = read_quarantine(Storage(index.uri))
    assert [row.source.rpartition("/")[2] for row in found] == [name]
    assert reason in found[0].reason
    with pytest.raises(JobFailed, match=r"1 of 5 inputs cannot be used"):
        packed(photos, tmp_path / "strict")


def test_a_picture_that_is_too_large_is_set_aside(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(JobFailed, match=f"{WIDTH}x{HEIGHT} pixels are too large"):
        packed(photos, tmp_path / "s")
    monkeypatch.setattr(pictures, "MAX_PIXELS", WIDTH * HEIGHT)
    monkeypatch.setattr(pictures, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(JobFailed, match="larger than 100 bytes"):
        packed(photos, tmp_path / "t")


def test_a_turned_picture_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(saved(0, "JPEG", exif=exif))
    index = packed(tmp_path / "in", tmp_path / "s")
    row = index.shard_rows(0).to_pylist()[0]
    assert (row["width"], row["height"]) == (HEIGHT, WIDTH)
    frame = decode_clip(index.read_bytes(0, row["offset"], row["bytes"]), np.zeros(1))[0]
    wanted = np.rot90(coloured(0), -1).astype(int)
    assert np.abs(frame.astype(int) - wanted).mean() < 8


def test_beside_videos_pictures_are_left_alone(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "clip.mp4")
    source = open_source(str(photos))
    assert isinstance(source, FolderSource)
    assert not source.images
    assert [unit.inputs for unit in source.units()] == [("clip.mp4",)]
    single = open_source(str(photos / "a.jpg"))
    assert isinstance(single, FolderSource)
    assert single.images


def test_a_source_of_pictures_is_one_moment(photos: Path, tmp_path: Path) -> None:
    job = data_job(tmp_path / "s", source=str(photos))
    words = r"holds pictures, which stand still: 8 frames of one are 4 moments that are alike"
    with pytest.raises(RequestError, match=words) as found:
        prepare_data(job, RecordingProgress(), local=True)
    assert found.value.where == "data.frames"
    assert found.value.hint == "write frames: 2 there (one moment, model.tubelet)"
    assert not (tmp_path / "s").exists()  # before anything is packed
    index = packed(photos, tmp_path / "packed")
    for uri in (str(photos), index.uri):
        videos = {"uri": "physics://drop?clips=2&size=32&fps=8&seconds=3", "weight": 1}
        sources = [videos, {"uri": uri, "weight": 1}]
        with pytest.raises(RequestError, match="holds pictures") as found:
            prepare_data(data_job(tmp_path / "s", sources=sources), RecordingProgress(), local=True)
        assert found.value.where == "data.sources.1.frames"


def test_a_mixture_with_pictures_is_prepared_and_shown(photos: Path, tmp_path: Path) -> None:
    videos = {"uri": "physics://drop?clips=2&size=32&fps=8&seconds=3", "weight": 1}
    masks = [{"targets": 0.5, "context": 0.25, "spatial": 0.4}]
    sources = [videos, {"uri": str(photos), "weight": 1, "frames": 2}]
    job = data_job(tmp_path / "s", sources=sources)
    own = {"kind": "vjepa2", "masks": masks}
    job = type(job).model_validate(job.model_dump(by_alias=True) | {"objective": own})
    before = inspect_dataset(job, tmp_path / "before.png", 4)
    assert before.sampled
    prepared = prepare_data(job, RecordingProgress(), local=True)
    assert [index.num_clips for index in prepared.indexes] == [2, 4]
    report = inspect_dataset(job, tmp_path / "sheet.png", 4)
    assert report.clips == 6
    assert report.fps == {"8": 2, "picture": 4}
    assert report.too_short == 0
    assert json.dumps(report.codecs, sort_keys=True) == (
        '{"h264": 2, "mjpeg": 2, "png": 1, "webp": 1}'
    )
    assert Image.open(tmp_path / "sheet.png").height > 200
