"""Cutting keeps time, frames and the right way up, in even pieces of bounded length."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from orchestrator.data.codec import transcode
from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.sources.base import RawClip, Rejected
from orchestrator.data.sources.raw_clips import split_into_clips
from orchestrator.errors import DataError
from orchestrator.job import TranscodeConfig
from tests.support.videos import (
    decode_all_frames,
    grey_frame,
    grey_level,
    presentation_times,
    write_video,
)


def cut(path: Path, **options: Any) -> list[RawClip | Rejected]:
    with open(path, "rb") as file:
        return list(split_into_clips(file, "key", str(path), TranscodeConfig(**options), {}))


def clips(path: Path, **options: Any) -> list[RawClip]:
    found = cut(path, **options)
    assert all(isinstance(item, RawClip) for item in found)
    return [item for item in found if isinstance(item, RawClip)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_constant_rate_keeps_every_frame_once_and_in_order(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, frames=75, fps=30)
    pieces = clips(path, segment=1.0)
    assert [piece.frames for piece in pieces] == [25, 25, 25]
    assert [piece.key for piece in pieces] == ["key-000", "key-001", "key-002"]
    levels = [grey_level(frame) for piece in pieces for frame in decode_all_frames(piece.payload)]
    np.testing.assert_allclose(levels, np.arange(75) / 74, atol=0.02)


def test_a_variable_rate_keeps_its_true_speed(tmp_path: Path) -> None:
    """Half the video at 10, half at 50 frames a second: the level must rise evenly in time, and
    every frame is there once."""
    ticks = [*range(0, 1000, 100), *range(1000, 2001, 20)]
    (piece,) = clips(write_video(tmp_path / "v.mkv", ticks=ticks))
    levels = np.array([grey_level(frame) for frame in decode_all_frames(piece.payload)])
    times = presentation_times(piece.payload)
    assert piece.frames == len(levels) == len(ticks)
    np.testing.assert_allclose(times * 1000, ticks, atol=1)
    assert piece.duration_s == pytest.approx(2.0, abs=0.05)
    np.testing.assert_allclose(levels, times / 2.0, atol=0.02)


@pytest.mark.parametrize("mode", ["h264", "copy"])
def test_a_clip_of_a_variable_rate_may_end_at_its_very_end(mode: str, tmp_path: Path) -> None:
    """The last frame is shown as long as the index says, also where it is a key frame."""
    ticks = np.cumsum([0, *[30, 170, 100] * 26]).tolist()
    for piece in clips(write_video(tmp_path / "v.mkv", ticks=ticks), mode=mode, gop=1, segment=3):
        near = np.array([piece.duration_s - 1e-3])
        np.testing.assert_array_equal(
            decode_clip(piece.payload, near),
            decode_clip(piece.payload, np.array([piece.frames - 1])),
        )


@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_rotated_video_is_stored_upright(tmp_path: Path, rotation: int) -> None:
    (piece,) = clips(write_video(tmp_path / "r.mp4", rotation=rotation))
    expected = np.rot90(grey_frame(0.5, 96, 64), rotation // 90)
    frame = decode_all_frames(piece.payload)[15].astype(int)
    assert (piece.height, piece.width) == frame.shape[:2] == expected.shape[:2]
    red = (frame[..., 0] - frame[..., 1] > 100) & (expected[..., 0] > 200)
    assert red.sum() > 0.8 * (expected[..., 0] - expected[..., 1].astype(int) > 100).sum()


@pytest.mark.parametrize(
    ("width", "height", "short_side", "stored"),
    [
        (128, 72, 36, (64, 36)),
        (72, 128, 36, (36, 64)),
        (96, 64, 256, (96, 64)),
        (130, 98, 33, (44, 32)),
    ],
)
def test_the_short_side_shrinks_and_never_grows(
    tmp_path: Path, width: int, height: int, short_side: int, stored: tuple[int, int]
) -> None:
    (piece,) = clips(
        write_video(tmp_path / "s.mp4", width=width, height=height), short_side=short_side
    )
    assert (piece.width, piece.height) == stored
    assert decode_all_frames(piece.payload)[0].shape == (stored[1], stored[0], 3)


def test_oblong_pixels_become_square(tmp_path: Path) -> None:
    (wide,) = clips(write_video(tmp_path / "w.mp4", pixel=Fraction(4, 3)))
    (tall,) = clips(write_video(tmp_path / "t.mp4", pixel=Fraction(3, 4), rotation=90))
    assert (wide.width, wide.height) == (96, 48)
    assert (tall.width, tall.height) == (64, 72)


def test_segments_are_even_and_never_too_long(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=100, fps=10)
    for segment in (0.5, 1.05, 3.0, 3.3333, 9.9, 10.0):
        pieces = clips(path, segment=segment)
        assert sum(piece.frames for piece in pieces) == 100
        assert max(piece.duration_s for piece in pieces) <= segment + 1e-9
        assert max(p.frames for p in pieces) - min(p.frames for p in pieces) <= 1


def test_key_frames_are_at_most_a_gop_apart(tmp_path: Path) -> None:
    (piece,) = clips(write_video(tmp_path / "a.mp4", frames=60, g="7"), gop=20)
    with av.open(io.BytesIO(piece.payload)) as container:
        keys = [i for i, f in enumerate(container.decode(video=0)) if f.key_frame]
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert keys[0] == 0
    assert max(np.diff([*keys, 60])) <= 20


def test_the_same_video_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=60)
    assert [p.payload for p in clips(path)] == [p.payload for p in clips(path)]


def test_damage_costs_its_segment_and_not_the_video(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    path = tmp_path / "n.mp4"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10, options={"g": "10", "bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(60):
            image = noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    generator = random.Random(0)
    for at in range(start, start + 600):
        data[at] ^= generator.randrange(256)
    path.write_bytes(data)
    found = cut(path, segment=1.0)
    bad = [item for item in found if isinstance(item, Rejected)]
    assert len(found) == 6
    assert 1 <= len(bad) <= 2
    assert all("damaged" in item.reason or "decoded" in item.reason for item in bad)
    assert bad[0].share == pytest.approx(1 / 6)


def test_a_frame_that_is_lost_is_a_row_that_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder may drop a frame and say nothing; the rest of its segment is kept, at its times."""
    path = write_video(tmp_path / "a.mp4", frames=60, fps=30)
    decoded_frames = transcode.decode_frames

    def dropping(*of: Any) -> Iterator[Any]:
        return (one for number, one in enumerate(decoded_frames(*of)) if number != 40)

    monkeypatch.setattr(transcode, "decode_frames", dropping)
    first, row, second = cut(path, segment=1.0)
    assert isinstance(first, RawClip)
    assert first.frames == 30
    assert isinstance(row, Rejected)
    assert (row.share, "1 frames cannot be decoded" in row.reason) == (0.0, True)
    assert isinstance(second, RawClip)
    assert (second.frames, second.duration_s) == (29, 1.0)
    np.testing.assert_allclose(
        np.diff(presentation_times(second.payload))[8:11] * 30, [1, 2, 1], atol=0.01
    )


def test_copying_keeps_the_coded_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mkv", frames=90, fps=30, g="15", bf="2", sc_threshold="0")
    source = decode_all_frames(path.read_bytes())
    pieces = clips(path, mode="copy", segment=1.0)
    assert len(pieces) == 3
    assert max(piece.duration_s for piece in pieces) <= 1.0 + 1e-3
    copied = [frame for piece in pieces for frame in decode_all_frames(piece.payload)]
    assert len(copied) == sum(piece.frames for piece in pieces) == 90
    assert all(np.array_equal(a, b) for a, b in zip(source, copied, strict=True))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libsvtav1")]
)
def test_codecs_that_fit_mp4_are_copied(tmp_path: Path, name: str, codec: str) -> None:
    (piece,) = clips(write_video(tmp_path / name, codec=codec, g="200"), mode="copy")
    assert len(decode_all_frames(piece.payload)) == piece.frames == 30


def test_what_cannot_be_copied_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="codec ffv1 does not fit mp4"):
        cut(write_video(tmp_path / "f.mkv", codec="ffv1"), mode="copy")
    with pytest.raises(DataError, match=r"too long to copy: 1\.0 s"):
        cut(write_video(tmp_path / "a.mp4"), mode="copy", max_duration=0.5)
    with pytest.raises(DataError, match="without timestamps"):
        cut(write_video(tmp_path / "a.h264"), mode="copy")
