"""What a video holds is counted, not believed; what cannot be used says why."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from orchestrator.data.codec import container
from orchestrator.data.codec.video_probe import probe_video
from orchestrator.errors import DataError
from tests.support.videos import write_audio, write_video


@pytest.mark.parametrize(
    ("name", "codec", "seen"),
    [
        ("a.mp4", "libx264", "h264"),
        ("a.ts", "libx264", "h264"),
        ("a.mkv", "libx265", "hevc"),
        ("a.webm", "libvpx-vp9", "vp9"),
        ("a.mkv", "libsvtav1", "av1"),
        ("a.avi", "mpeg4", "mpeg4"),
        ("a.mpg", "mpeg2video", "mpeg2video"),
    ],
)
def test_frames_rate_and_size_of_every_codec(
    tmp_path: Path, name: str, codec: str, seen: str
) -> None:
    path = write_video(tmp_path / name, frames=30, fps=25, codec=codec)
    with open(path, "rb") as file:
        facts = probe_video(file)
    assert (facts.codec, facts.frames, facts.display_size) == (seen, 30, (96, 64))
    assert float(facts.fps) == pytest.approx(25, rel=2e-3)
    assert facts.duration_s == pytest.approx(1.2, rel=2e-3)


def test_a_variable_rate_is_told_by_its_timestamps(tmp_path: Path) -> None:
    ticks = np.cumsum([0, *[20, 80] * 15]).tolist()
    with open(write_video(tmp_path / "v.mkv", ticks=ticks), "rb") as file:
        facts = probe_video(file)
    np.testing.assert_allclose(facts.frame_times * 1000, ticks, atol=1.01)
    assert float(facts.fps) == pytest.approx(20, rel=1e-2)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_size_is_the_upright_one(tmp_path: Path, rotation: int) -> None:
    with open(write_video(tmp_path / "r.mp4", rotation=rotation), "rb") as file:
        facts = probe_video(file)
    assert facts.display_size == ((96, 64) if rotation == 180 else (64, 96))


def test_a_raw_stream_without_timestamps_counts_its_frames(tmp_path: Path) -> None:
    with open(write_video(tmp_path / "raw.h264", frames=30), "rb") as file:
        facts = probe_video(file)
    assert facts.frames == 30
    assert not facts.has_timestamps


def reason(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        probe_video(io.BytesIO(data))
    return caught.value.what


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    assert "not a readable video" in reason(b"Dear diary, today\n" * 200)
    assert "no video stream (audio only)" in reason(write_audio(tmp_path / "s.mp4").read_bytes())
    assert "one frame" in reason(write_video(tmp_path / "1.mp4", frames=1).read_bytes())


@pytest.mark.parametrize(
    ("name", "codec", "faststart"),
    [
        ("a.mp4", "libx264", False),
        ("a.mp4", "libx264", True),
        ("a.mkv", "libx264", False),
        ("a.avi", "mpeg4", False),
    ],
)
def test_a_video_that_is_cut_off_is_found(
    tmp_path: Path, name: str, codec: str, faststart: bool
) -> None:
    """The rest often still opens and decodes; only counting tells."""
    path = write_video(tmp_path / name, frames=150, codec=codec, faststart=faststart)
    data = path.read_bytes()
    assert "truncated" in reason(data[: len(data) // 2]) or not faststart
    reason(data[: len(data) // 2])


def test_frames_beyond_the_pixel_limit_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_video(tmp_path / "a.mp4").read_bytes()
    monkeypatch.setattr(container, "MAX_PIXELS", 96 * 64 - 1)
    assert "96x64 pixels are too large" in reason(data)


def test_a_playlist_named_like_a_video_opens_nothing_else(tmp_path: Path) -> None:
    target = write_video(tmp_path / "secret.ts", frames=40)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.3,\n{target}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    with av.open(str(tmp_path / "list.m3u8")) as container:
        assert container.streams.video
    reason(playlist.encode())
