"""Orientation, shape and colour are those that players show, whichever way a file comes in."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from orchestrator.data.codec.decode import Crop, decode_clip
from orchestrator.data.codec.display import Orientation, orientation_from_matrix
from orchestrator.data.codec.video_probe import probe_video
from orchestrator.data.sources.base import RawClip
from orchestrator.data.sources.folder import FolderSource
from orchestrator.errors import DataError
from orchestrator.job import TranscodeConfig
from tests.support.ffmpeg_reference import ffmpeg_frames, run_ffmpeg
from tests.support.input_routes import (
    INPUT_ROUTES,
    mean_absolute_difference,
    missing_frames,
    read_by_route,
)
from tests.support.unusual_videos import (
    DISPLAY_MATRICES,
    HEIGHT,
    WIDTH,
    concatenate_files,
    numbered_frame,
    remuxed,
    set_display_matrix,
    write_with_timestamps,
)

pytestmark = pytest.mark.integration  # FFmpeg runs as a process

LARGE = [numbered_frame(n, 1280, 720) for n in range(3)]
BIG = [numbered_frame(n, 2 * WIDTH, 2 * HEIGHT) for n in range(12)]


@dataclass(frozen=True)
class Case:
    """`size`: width and height of the frames that are shown. `matrix`: of colours that the file
    does not name, as players take them."""

    name: str
    make: Callable[[Path], Path]
    size: tuple[int, int] = (WIDTH, HEIGHT)
    matrix: str = "auto"
    whole: tuple[str, ...] = INPUT_ROUTES


def coloured(name: str, matrix: int, full: bool = False, **keys: Any) -> Case:
    return Case(
        name,
        lambda f: write_with_timestamps(f / "c.mkv", 12, colour=(matrix, 2 if full else 1), **keys),
    )


def made(name: str, file: str, size: tuple[int, int] = (WIDTH, HEIGHT), **keys: Any) -> Case:
    whole = keys.pop("whole", INPUT_ROUTES)
    return Case(
        name, lambda folder: write_with_timestamps(folder / file, 12, **keys), size, whole=whole
    )


def oriented(name: str) -> Case:
    a, b, c, d = DISPLAY_MATRICES[name]
    size = (HEIGHT, WIDTH) if not a else (WIDTH, HEIGHT)
    return Case(
        name,
        lambda f: set_display_matrix(write_with_timestamps(f / "o.mp4", 12, bf="2"), a, b, c, d),
        size,
    )


def two_streams(folder: Path, *, largest_first: bool) -> Path:
    """Two video streams, of which the numbered one is the largest."""
    path = folder / "two.mkv"
    files = [
        write_with_timestamps(folder / "big.mkv", 12),
        write_with_timestamps(folder / "small.mkv", _small()),
    ]
    with av.open(str(path), "w") as out:
        order = files if largest_first else files[::-1]
        readers = [av.open(str(file)) for file in order]
        streams = [out.add_stream_from_template(r.streams.video[0]) for r in readers]
        for stream in streams:
            stream.disposition = av.stream.Disposition(0)
        for reader, stream in zip(readers, streams, strict=True):
            for packet in reader.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
            reader.close()
    return path


def _small() -> list[np.ndarray]:
    return [numbered_frame(n, WIDTH // 2, HEIGHT // 2)[::-1] for n in range(12)]


def by_ffmpeg(name: str, *arguments: str, **source: Any) -> Callable[[Path], Path]:
    """Makes a file by FFmpeg's command line of a plain one."""

    def make(folder: Path) -> Path:
        run_ffmpeg(
            "-i",
            write_with_timestamps(folder / "plain.mp4", 12, **source),
            *arguments,
            folder / name,
        )
        return folder / name

    return make


def clean_aperture(folder: Path) -> Path:
    """An mp4 that crops its frames to 64 x 48 by a box `clap`."""
    path = write_with_timestamps(folder / "clap.mp4", 12)
    body = bytearray(path.read_bytes())
    box = struct.pack(">I4s8I", 40, b"clap", 64, 1, 48, 1, 0, 1, 0, 1)
    at = body.rindex(b"avc1") - 4
    names = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    for place in [*(body.index(name) - 4 for name in names), at]:
        size = int.from_bytes(body[place : place + 4], "big") + len(box)
        body[place : place + 4] = size.to_bytes(4, "big")
    end = at + int.from_bytes(body[at : at + 4], "big") - len(box)
    body[end:end] = box
    path.write_bytes(body)
    return path


def two_sizes(folder: Path) -> Path:
    """A transport stream whose frames become twice as large."""
    base = Fraction(1, 90_000)
    first = write_with_timestamps(folder / "a.ts", 12, base=base)
    ticks = [108_000 + 9000 * n for n in range(12)]
    return concatenate_files(
        folder / "sizes.ts",
        first,
        write_with_timestamps(folder / "b.ts", BIG, ticks=ticks, base=base),
    )


CASES = [
    *map(oriented, DISPLAY_MATRICES),
    made("wide_pixels", "w.mkv", (WIDTH, 48), pixel=Fraction(4, 3)),
    made("high_pixels", "h.mkv", (72, HEIGHT), pixel=Fraction(3, 4)),
    made("absurd_pixels", "x.mkv", pixel=Fraction(1, 40)),
    made("ten_bit", "t.mkv", pix_fmt="yuv420p10le", codec="libx265",
         **{"x265-params": "log-level=error:crf=4"}),
    made("full_chroma", "f.mkv", pix_fmt="yuv444p"),
    made("half_chroma", "g.mkv", pix_fmt="yuv422p"),
    made("grey", "y.mkv", pix_fmt="gray"),
    made("rgb", "r.mov", codec="png", pix_fmt="rgb24", whole=("h264", "tar")),
    made("alpha", "a.mov", codec="qtrle", pix_fmt="argb", whole=("h264", "tar")),
    made("prores", "p.mov", codec="prores_ks", pix_fmt="yuva444p10le", whole=("h264", "tar")),
    made("interlaced", "i.mkv", **{"x264-params": "tff=1"}),
    made("motion_jpeg", "m.avi", codec="mjpeg", pix_fmt="yuvj420p", qmin="1", qmax="2"),
    coloured("bt601", 6),
    coloured("bt601_full", 5, full=True),
    coloured("bt709", 1),
    coloured("bt709_full", 1, full=True),
    coloured("smpte240m", 7),
    coloured("fcc", 4),
    coloured("bt2020_ten_bit", 9, pix_fmt="yuv420p10le", codec="libx265",
             **{"x265-params": "log-level=error:crf=4"}),
    Case("hd_untagged", lambda f: write_with_timestamps(f / "hd.mp4", LARGE, crf="12"), (114, 64),
         "bt709"),
    Case("largest_first", lambda f: two_streams(f, largest_first=True)),
    Case("largest_second", lambda f: two_streams(f, largest_first=False)),
    Case("two_sizes", two_sizes, whole=("h264",)),
    Case("aspect", by_ffmpeg("a.mkv", "-c", "copy", "-aspect", "2:1"), (WIDTH, 48),
         whole=("h264", "tar")),
    Case("range", by_ffmpeg("r.mkv", "-c", "copy", "-color_range", "pc"), whole=("h264", "tar")),
    Case("cropped", by_ffmpeg("c.mp4", "-c", "copy", "-bsf:v",
         "h264_metadata=crop_left=16:crop_top=8"), (80, 56)),
    Case("clean_aperture", clean_aperture, (64, 48), whole=()),
    Case("palette", by_ffmpeg("p.mov", "-c:v", "qtrle", "-pix_fmt", "gray"), whole=("h264",)),
]  # fmt: skip


@pytest.mark.parametrize("route", INPUT_ROUTES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_picture_is_the_one_that_is_shown(case: Case, route: str, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    width, height = case.size
    if route != "h264" and case.size[0] > WIDTH:  # not scaled down
        width, height = 1280, 720
    shown = ffmpeg_frames(path, width, height, case.matrix)
    assert len(shown) >= 3
    found = read_by_route(route, path, shown)
    gone = missing_frames(found, shown)
    assert not gone or found.rejection_reasons, f"frames {gone} are left out without a row"
    if route in case.whole:
        assert (gone, found.rejection_reasons) == ([], [])


@pytest.mark.parametrize("matrix", [(46341, 46341, -46341, 46341), (65000, 8000, -8000, 65000)])
def test_a_matrix_that_is_no_quarter_turn_is_refused(
    matrix: tuple[int, int, int, int], tmp_path: Path
) -> None:
    path = set_display_matrix(write_with_timestamps(tmp_path / "a.mp4", 12), *matrix)
    with open(path, "rb") as file, pytest.raises(DataError, match=r"turns by \d+ degrees"):
        probe_video(file)
    with pytest.raises(DataError, match=r"turns by \d+ degrees"):
        decode_clip(path.read_bytes(), np.zeros(1))


@pytest.mark.parametrize("scale", [0.25, 1.5])
def test_a_matrix_may_scale_and_be_slightly_off(scale: float) -> None:
    for turned, (a, b, c, d) in DISPLAY_MATRICES.items():
        slightly = np.array([a + 400, b - 300, 0, c + 200, d - 100, 0, 0, 0, 2**30]) * scale
        expected = orientation_from_matrix(np.array([a, b, 0, c, d, 0, 0, 0, 2**30]))
        assert orientation_from_matrix(slightly.astype(np.int32)) == expected, turned
    assert orientation_from_matrix(np.zeros(9, np.int32)) == Orientation()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", DISPLAY_MATRICES)
def test_a_crop_is_one_of_the_upright_frame(name: str, flip: bool, tmp_path: Path) -> None:
    path = set_display_matrix(write_with_timestamps(tmp_path / "a.mp4", 4), *DISPLAY_MATRICES[name])
    whole = decode_clip(path.read_bytes(), np.zeros(1))[0]
    height, width = whole.shape[:2]

    def corner(w: float, h: float) -> Crop:
        assert (w, h) == (width, height)
        return Crop(width - 32, 0, 32, 32, flip)

    cut = decode_clip(path.read_bytes(), np.zeros(1), size=32, choose_crop=corner)[0]
    expected = whole[:32, width - 32 :]
    assert mean_absolute_difference(cut, expected[:, ::-1] if flip else expected) < 4


def test_a_clip_whose_frames_change_their_size_is_cropped_once(tmp_path: Path) -> None:
    path, drawn = two_sizes(tmp_path), []

    def left(w: float, h: float) -> Crop:
        drawn.append((w, h))
        return Crop(0, 0, w / 2, h)

    frames = decode_clip(path.read_bytes(), np.array([0.0, 1.25]), size=32, choose_crop=left)
    assert drawn == [(WIDTH, HEIGHT)]
    assert mean_absolute_difference(frames[0], frames[1]) < 25
    assert mean_absolute_difference(frames[0], frames[1][:, ::-1]) > 25


def exif_picture(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind = {"jpg": "jpeg"}.get(path.suffix[1:], path.suffix[1:])
    options = {"lossless": True} if kind == "webp" else {"quality": 95}
    Image.fromarray(numbered_frame(77)).save(path, kind, exif=exif, **options)
    return path


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(9))
def test_a_picture_is_turned_as_its_exif_data_say(
    orientation: int, extension: str, tmp_path: Path
) -> None:
    path = exif_picture(tmp_path / f"p.{extension}", orientation)
    with Image.open(path) as picture:
        expected = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    (unit,) = FolderSource(str(tmp_path), 1, images=True).units()
    (clip,) = FolderSource(str(tmp_path), 1, images=True).clips(unit, TranscodeConfig())
    assert isinstance(clip, RawClip)
    assert (clip.height, clip.width) == expected.shape[:2]
    assert mean_absolute_difference(decode_clip(clip.payload, np.zeros(1))[0], expected) < 4


def test_a_picture_with_another_one_behind_it_is_the_first(tmp_path: Path) -> None:
    first = Image.fromarray(numbered_frame(5))
    behind = [Image.fromarray(numbered_frame(9)[:32, :48])]
    first.save(tmp_path / "p.jpg", "MPO", save_all=True, append_images=behind, quality=95)
    (unit,) = FolderSource(str(tmp_path), 1, images=True).units()
    (clip,) = FolderSource(str(tmp_path), 1, images=True).clips(unit, TranscodeConfig())
    assert isinstance(clip, RawClip)
    assert (
        mean_absolute_difference(decode_clip(clip.payload, np.zeros(1))[0], numbered_frame(5)) < 4
    )


def test_a_title_that_is_not_utf8_is_no_obstacle(tmp_path: Path) -> None:
    path = remuxed(write_with_timestamps(tmp_path / "a.mkv", 12), tmp_path / "t.mkv", title="caf??")
    body = path.read_bytes().replace(b"caf??", b"caf\xe9\xff")
    assert mean_absolute_difference(decode_clip(body, np.zeros(1))[0], numbered_frame(0)) < 4


def test_damaged_exif_data_leave_a_picture_as_it_is(tmp_path: Path) -> None:
    path = exif_picture(tmp_path / "p.jpg", 6)
    body = bytearray(path.read_bytes())
    at = body.index(b"Exif\0\0") + 6
    body[at : at + 8] = b"\xff" * 8
    assert (
        mean_absolute_difference(decode_clip(bytes(body), np.zeros(1))[0], numbered_frame(77)) < 4
    )
