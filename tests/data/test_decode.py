"""Frames are those shown at the times asked for, exactly, upright, and never fewer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from orchestrator.data.codec import decode, packet_reader
from orchestrator.data.codec import filter_graph as frame_graph
from orchestrator.data.codec.decode import Crop, decode_clip, sample_frame_times
from orchestrator.errors import DataError
from tests.support.clips import encode_video

SIDE = 64
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 230, 230)


def numbered(count: int) -> np.ndarray:
    """Frames that carry their number as 4 x 4 black and white squares; uint8 [T, 64, 64, 3]."""
    bits = (np.arange(count)[:, None] >> np.arange(16)) & 1
    squares = bits.reshape(count, 4, 4, 1).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    return np.repeat(squares * 200 + 25, 3, axis=3).astype(np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    bits = frames[:, 8::16, 8::16, 0].reshape(len(frames), 16) > 127
    return [int(n) for n in (bits << np.arange(16)).sum(1)]


def shown(pts_s: np.ndarray, times: np.ndarray) -> list[int]:
    """By a naive loop: the last frame whose timestamp is not after t."""
    return [max(i for i, pts in enumerate(pts_s) if pts <= t + 1e-9) for t in times]


def check(payload: bytes, pts_s: np.ndarray, end_s: float, fps: float = 4.0) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        times = sample_frame_times(rng, end_s, 8, fps)
        assert numbers(decode_clip(payload, times, size=SIDE)) == shown(pts_s, times)


NTSC = 30000 / 1001
ENCODERS: list[dict[str, Any]] = [
    {"bf": "3"},
    {"bf": "3", "x264-params": "b-pyramid=normal:open-gop=1"},
    {"bf": "0", "tune": "fastdecode"},
    {"codec": "mpeg4", "qscale": "2", "bf": "2"},
    {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "container": "webm"},
    {"bf": "2", "container": "matroska"},
]


@pytest.mark.parametrize("how", ENCODERS, ids=lambda how: "-".join(map(str, how.values())))
def test_frames_of_a_2997_video_are_exact(how: dict[str, Any]) -> None:
    payload = encode_video(numbered(150), NTSC, **how)
    pts = np.arange(150) / NTSC
    if how.get("container") in ("webm", "matroska"):
        pts = np.round(pts, 3)  # these store milliseconds
        pts -= 5e-4
    check(payload, pts, 150 / NTSC)


@pytest.mark.parametrize("kept", [0, 256], ids=["sought", "kept"])
@pytest.mark.parametrize("how", ENCODERS, ids=lambda how: "-".join(map(str, how.values())))
def test_frames_by_their_numbers_are_those_frames(
    how: dict[str, Any], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a clip's packets were kept, or are sought again."""
    monkeypatch.setattr(packet_reader, "_MAX_CACHED_PACKETS", kept)
    payload = encode_video(numbered(150), NTSC, **how)
    rng = np.random.default_rng(0)
    for _ in range(12):
        wanted = rng.integers(150 - 35) + np.arange(8) * 5
        assert numbers(decode_clip(payload, wanted, size=SIDE)) == wanted.tolist()


def test_frames_of_a_variable_rate_are_exact() -> None:
    steps = np.random.default_rng(1).integers(200, 6000, 119)
    pts = [0, *np.cumsum(steps).tolist()]
    payload = encode_video(numbered(120), 30, pts=pts, time_base=(1, 30000), bf="3")
    check(payload, np.array(pts) / 30000, pts[-1] / 30000, fps=7.0)


def test_exactly_on_a_frames_timestamp_that_frame_is_shown() -> None:
    payload = encode_video(numbered(90), NTSC, bf="3")
    times = np.array([0, 1, 2, 30, 59, 60, 61, 89]) / NTSC
    assert numbers(decode_clip(payload, times, size=SIDE)) == [0, 1, 2, 30, 59, 60, 61, 89]


def test_skipping_frames_that_nothing_refers_to_changes_no_pixel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(2)
    moving = np.stack([np.roll(rng.integers(0, 255, (SIDE, SIDE, 3)), i, 1) for i in range(100)])
    payload = encode_video(moving.astype(np.uint8), 25, bf="3")
    draws = [sample_frame_times(rng, 4.0, 8, 4.0) for _ in range(8)]
    skipped = [decode_clip(payload, times, size=SIDE) for times in draws]
    monkeypatch.setattr(decode, "_CODECS_WITH_SKIPPABLE_FRAMES", ())
    for times, frames in zip(draws, skipped, strict=True):
        assert np.array_equal(decode_clip(payload, times, size=SIDE), frames)


@pytest.mark.parametrize("flags", ["", "faststart"])
def test_a_truncated_video_fails_or_gives_every_frame(flags: str, tmp_path: Path) -> None:
    payload = _muxed(numbered(100), {"movflags": flags} if flags else {}, tmp_path / "clip.mp4")
    times = np.arange(8) / 4.0
    whole = decode_clip(payload, times, size=SIDE)
    failed = 0
    for share in np.linspace(0.02, 0.98, 25):
        try:
            frames = decode_clip(payload[: int(len(payload) * share)], times, size=SIDE)
        except DataError:
            failed += 1
        else:
            assert np.array_equal(frames, whole)
    assert failed > 10


def _muxed(frames: np.ndarray, options: dict[str, str], path: Path) -> bytes:
    """A video whose container has options of its own (where its table of contents stands)."""
    with (
        av.open(io.BytesIO(encode_video(frames, 25, bf="2"))) as source,
        av.open(str(path), "w", format="mp4", options=options) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return path.read_bytes()


def test_a_video_shorter_than_its_index_says_fails() -> None:
    payload = encode_video(numbered(50), 25)
    assert numbers(decode_clip(payload, np.array([0.0, 1.99]), size=SIDE)) == [0, 49]
    with pytest.raises(DataError, match=r"ends 1\.00 s before"):
        decode_clip(payload, np.array([0.0, 3.0]), size=SIDE)


@pytest.mark.parametrize("payload", [b"", b"not a video at all" * 50, bytes(4000)])
def test_what_is_not_a_video_fails(payload: bytes) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_clip(payload, np.array([0.0]), size=SIDE)


def quadrants(height: int = 48, width: int = 64) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def colours(frame: np.ndarray) -> list[tuple[int, ...]]:
    """The named colour nearest to each quadrant's middle: top left, top right, bottom ..."""
    h, w = frame.shape[:2]
    named = np.array([RED, GREEN, BLUE, WHITE])
    out = []
    for y, x in ((1, 1), (1, 3), (3, 1), (3, 3)):
        pixel = frame[h * y // 4, w * x // 4].astype(int)
        out.append(tuple(named[np.abs(named - pixel).sum(1).argmin()].tolist()))
    return out


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_a_rotated_video_is_upright_and_cropped_upright(rotation: int) -> None:
    turns = rotation // 90 % 4
    upright = np.rot90(quadrants(), turns)
    payload = encode_video(np.stack([quadrants()] * 3), 10, rotation=rotation)
    whole = decode_clip(payload, np.array([0.0]))[0]
    assert whole.shape == upright.shape
    assert colours(whole) == colours(upright)

    height, width = upright.shape[:2]

    def top_right(w: float, h: float) -> Crop:
        assert (w, h) == (width, height)
        return Crop(w / 2, 0, w / 2, h / 2)

    corner = decode_clip(payload, np.array([0.0]), size=16, choose_crop=top_right)[0]
    assert corner.shape == (16, 16, 3)
    assert set(colours(corner)) == {colours(upright)[1]}

    def mirrored(w: float, h: float) -> Crop:
        return Crop(0, 0, w, h, hflip=True)

    flipped = decode_clip(payload, np.array([0.0]), size=32, choose_crop=mirrored)[0]
    assert colours(flipped) == colours(upright[:, ::-1])


def test_scaling_is_that_of_an_area_filter() -> None:
    """Against a plain mean over pixels: no shift, and no pixel skipped (aliasing)."""
    y, x = np.mgrid[:128, :128]
    grey = 128 + 60 * np.sin(x / 11) + 50 * np.cos(y / 17)
    payload = encode_video(np.stack([np.repeat(grey[..., None], 3, 2)] * 2).astype(np.uint8), 10)
    small = decode_clip(payload, np.array([0.0]), size=32)[0].astype(float)
    expected = grey.reshape(32, 4, 32, 4).mean((1, 3))
    error = np.abs(small.mean(2) - expected)
    assert error.mean() < 2.5
    assert error.max() < 8


def test_a_filter_graph_that_is_kept_gives_each_video_its_own_picture() -> None:
    """More geometries and crops than a thread keeps graphs, in turns: as by graphs of their own."""
    wide, high = (
        encode_video(quadrants(*size)[None].repeat(4, 0), 4) for size in ((48, 64), (64, 48))
    )
    boxes = [Crop(0, 0, 2 * n, 2 * n, flip) for n in range(8, 13) for flip in (False, True)]

    def cut(payload: bytes, box: Crop) -> np.ndarray:
        return decode_clip(payload, np.zeros(1), size=16, choose_crop=lambda w, h: box)

    def cut_afresh(payload: bytes, box: Crop) -> np.ndarray:
        frame_graph._thread_cache.graphs.clear()
        return cut(payload, box)

    once = [[cut_afresh(payload, box) for box in boxes] for payload in (wide, high)]
    for at in (0, 7, 9, 0, 3):
        for payload, alone in zip((wide, high), once, strict=True):
            np.testing.assert_array_equal(cut(payload, boxes[at]), alone[at])


def test_starts_fill_all_the_room_there_is() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([sample_frame_times(rng, 10.0, 16, 4.0)[0] for _ in range(2000)])
    assert starts.min() >= 0
    assert starts.max() < 6.25
    assert np.histogram(starts, 5, (0, 6.25))[0].min() > 340
    assert np.allclose(np.diff(sample_frame_times(rng, 10.0, 16, 4.0)), 0.25)


def test_a_video_shorter_than_a_clip_fails() -> None:
    with pytest.raises(DataError, match=r"lasts 3\.00 s, a clip needs more than 3\.75 s"):
        sample_frame_times(np.random.default_rng(0), 3.0, 16, 4.0)
