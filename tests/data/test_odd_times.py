"""Frames are those that FFmpeg shows, each once, at their real speed, whatever a container says of
time; or a row says what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support.ffmpeg_reference import ffmpeg_frames, run_ffmpeg
from tests.support.input_routes import INPUT_ROUTES, SEGMENT_S, missing_frames, read_by_route
from tests.support.unusual_videos import (
    HEIGHT,
    WIDTH,
    concatenate_files,
    numbered_frame,
    remuxed,
    set_edit_list,
    write_with_timestamps,
)

pytestmark = pytest.mark.integration  # FFmpeg runs as a process

EVEN = [100 * number for number in range(40)]


def replaced(**places: int) -> list[int]:
    """Timestamps of 40 even frames, some replaced: `f20=500`."""
    ticks = list(EVEN)
    for name, tick in places.items():
        ticks[int(name[1:])] = tick
    return ticks


@dataclass(frozen=True)
class Case:
    """`whole`: routes that must show every frame; the others may refuse, in a row, what they
    cannot show. `timed`: FFmpeg's own times are those at which players show the frames."""

    name: str
    make: Callable[[Path], Path]
    whole: tuple[str, ...] = INPUT_ROUTES
    timed: bool = True
    lost: int = 0
    """Frames that no route shows, and a row names."""


def plain(name: str, **keys: Any) -> Case:
    # AVI does not store when reordered frames are shown; in a program stream seeks miss frames.
    whole = {"b_frames.avi": ("h264",), "mpeg2.mpg": ("h264", "copy")}.get(name, INPUT_ROUTES)
    return Case(name, lambda folder: write_with_timestamps(folder / name, **keys), whole)


def stamped(name: str, ticks: list[int], *, container: str = "mkv", **keys: object) -> Case:
    def make(folder: Path) -> Path:
        return write_with_timestamps(folder / f"{name}.{container}", ticks=ticks, bf="0")

    return Case(name, make, **keys)  # type: ignore[arg-type]


def edited(name: str, *edits: tuple[float, float], **keys: object) -> Case:
    def make(folder: Path) -> Path:
        base = Fraction(1, 10240)
        options = {"bf": str(keys.get("bf", 0)), "g": "12"}
        return set_edit_list(
            write_with_timestamps(folder / f"{name}.mp4", base=base, **options), edits
        )

    return Case(name, make, **{k: v for k, v in keys.items() if k != "bf"})  # type: ignore[arg-type]


def joined(name: str, container: str, **keys: object) -> Case:
    codec = {"codec": "mpeg2video", "rate": 25} if container == "mpg" else {}

    def make(folder: Path) -> Path:
        one = write_with_timestamps(folder / f"one.{container}", 25, **codec)  # type: ignore[arg-type]
        pictures = [frame[::-1] for frame in _numbered(30)]
        two = write_with_timestamps(folder / f"two.{container}", pictures, **codec)  # type: ignore[arg-type]
        return concatenate_files(folder / f"{name}.{container}", one, two)

    return Case(name, make, **keys)  # type: ignore[arg-type]


def _numbered(count: int) -> list[np.ndarray]:
    return [numbered_frame(number) for number in range(count)]


def without_beginning(folder: Path) -> Path:
    """A transport stream that is recorded from the middle of a group of pictures on."""
    path = write_with_timestamps(folder / "late.ts", base=Fraction(1, 90_000), bf="0", g="12")
    with av.open(str(path)) as container:
        packets = [packet.pos for packet in container.demux(video=0) if packet.size]
    body = path.read_bytes()
    path.write_bytes(body[: 188 * 3] + body[packets[5] :])
    return path


def raw(path: Path, codec: str) -> Path:
    """A coded stream without a container."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.global_quality = 2 * 118
        for image in _numbered(40):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def live_mkv(folder: Path) -> Path:
    """A Matroska file without an index and without a duration, as a recorder streams it."""
    return remuxed(
        write_with_timestamps(folder / "plain.mkv", bf="2"), folder / "live.mkv", live="1"
    )


def fragmented(folder: Path) -> Path:
    flags = "frag_keyframe+empty_moov+default_base_moof"
    plain = write_with_timestamps(folder / "plain.mp4", bf="2")
    return remuxed(plain, folder / "fragmented.mp4", movflags=flags)


def wrong_duration(folder: Path, factor: int) -> Path:
    """An mp4 whose headers name another duration than its frames have."""
    path = write_with_timestamps(folder / "duration.mp4", bf="0")
    body = bytearray(path.read_bytes())
    for name, place in ((b"mvhd", 20), (b"mdhd", 20)):
        at = body.index(name) + place
        value = int.from_bytes(body[at : at + 4], "big")
        body[at : at + 4] = (value * factor // 4).to_bytes(4, "big")
    path.write_bytes(body)
    return path


def by_ffmpeg(path: Path, source: Path, *arguments: str, before: tuple[str, ...] = ()) -> Path:
    """A file that FFmpeg's command line makes of another one."""
    run_ffmpeg(*before, "-i", source, *arguments, path)
    return path


def raw_in_mp4(folder: Path) -> Path:
    """Frames that are coded out of order, with the times at which they are decoded."""
    source = write_with_timestamps(folder / "b.mp4", bf="2")
    raw_file = by_ffmpeg(folder / "b.h264", source, "-c", "copy")
    return by_ffmpeg(folder / "raw.mp4", raw_file, "-c", "copy", before=("-r", "25"))


def decoding_times(folder: Path) -> Path:
    stamps = ("-bsf:v", "setts=pts=DTS:dts=DTS")
    source = write_with_timestamps(folder / "b.mp4", bf="2")
    return by_ffmpeg(folder / "d.mkv", source, "-c", "copy", *stamps)


def dropped_in_avi(folder: Path) -> Path:
    ticks = [round(40 * n) for n in range(60) if not 20 <= n <= 32]
    source = write_with_timestamps(folder / "v.mkv", len(ticks), ticks=ticks, rate=25)
    codec = ("-c:v", "libx264", "-crf", "4", "-bf", "0", "-g", "12")
    return by_ffmpeg(folder / "d.avi", source, "-fps_mode", "vfr", *codec)


def trimmed_open(folder: Path) -> Path:
    """Cut within an open group of pictures, without encoding anew."""
    options = {"x264-params": "open-gop=1:keyint=15:min-keyint=15:bframes=3", "bf": "3"}
    source = write_with_timestamps(folder / "open.mp4", 45, rate=15, g="15", **options)
    return by_ffmpeg(folder / "t.mkv", source, "-c", "copy", before=("-ss", "0.9"))


def joined_segments(folder: Path) -> Path:
    source = write_with_timestamps(folder / "long.mp4", 75, rate=25, g="12")
    pieces = ("-f", "segment", "-segment_time", "0.96")
    by_ffmpeg(folder / "s%d.ts", source, "-c", "copy", *pieces)
    return concatenate_files(folder / "joined.ts", *sorted(folder.glob("s*.ts")))


FAST = [round(n * 1000 / 240) for n in range(40)]
VERY_FAST = [n // 2 for n in range(40)]

CASES = [
    plain("plain.mp4", bf="2"),
    plain("plain.mkv", bf="2"),
    plain("plain.ts", bf="2"),
    plain("plain.flv"),
    plain("plain.mov", bf="2"),
    plain("mpeg4.avi", codec="mpeg4", qscale="2"),
    plain("mpeg2.mpg", codec="mpeg2video", rate=25, bf="2", qscale="2"),
    plain("mpeg2.ts", codec="mpeg2video", rate=25, bf="2", qscale="2"),
    plain("vp9.webm", codec="libvpx-vp9", crf="8"),
    plain("hevc.mp4", codec="libx265", **{"x265-params": "log-level=error:crf=4:keyint=12"}),
    plain("open.mp4", bf="3", **{"x264-params": "open-gop=1:keyint=9"}),
    plain("b_frames.avi", codec="mpeg4", bf="2", qscale="2"),
    Case("raw.h264", lambda f: raw(f / "raw.h264", "libx264"), ("h264",)),
    Case("raw.m2v", lambda f: raw(f / "raw.m2v", "mpeg2video"), ("h264",)),
    Case("live", live_mkv),
    Case("raw_in_mp4", raw_in_mp4, ("h264",), False),
    Case("decoding_times", decoding_times, ("h264",), False),
    Case("dropped_in_avi", dropped_in_avi, ("h264",)),
    Case("b_frames_h264.avi",
         lambda f: by_ffmpeg(f / "b.avi", write_with_timestamps(f / "b.mp4", bf="2"), "-c:v",
                             "libx264", "-crf", "4", "-bf", "2"), ("h264",)),
    Case("trimmed_open", trimmed_open, ("h264", "copy")),
    Case("joined_segments", joined_segments, ("h264",)),
    Case("fragmented", fragmented),
    Case("long_header", lambda folder: wrong_duration(folder, 40)),
    Case("short_header", lambda folder: wrong_duration(folder, 1)),
    Case("no_beginning", without_beginning, ("h264", "copy")),
    # Where time begins.
    stamped("late_start", [5000 + tick for tick in EVEN]),
    stamped("late_start_mp4", [5000 + tick for tick in EVEN], container="mp4"),
    stamped("late_start_ts", [50_000 + tick for tick in EVEN], container="ts"),
    stamped("negative_start_mp4", [tick - 500 for tick in EVEN], container="mov", whole=()),
    stamped("wrap", [95_443_000 + tick for tick in EVEN], container="ts", whole=("h264",)),
    # Rates.
    stamped("240_a_second", FAST),
    stamped("2000_a_second", VERY_FAST, whole=("h264",), timed=False),
    stamped("0.2_a_second", [5000 * n for n in range(12)] + [60_000 + 5000 * n for n in range(28)]),
    stamped("variable", np.cumsum([0, *[30, 170, 100] * 13]).tolist()),
    stamped("variable_mp4", np.cumsum([0, *[30, 170, 100] * 13]).tolist(), container="mp4"),
    stamped("one_dropped", [t for t in [*EVEN, 4000] if t != 2000]),
    stamped("ten_dropped", [*EVEN[:20], *(tick + 1000 for tick in EVEN[20:])]),
    stamped("short_rest", [*EVEN[:20], *(tick + 2000 for tick in EVEN[20:])]),
    stamped("long_rest", [*EVEN[:20], *(t + 60_000 for t in EVEN[20:])], whole=("h264", "copy")),
    stamped("two_rates", [*range(0, 2000, 100), *range(2000, 2800, 40)]),
    # Wild, equal, unordered.
    stamped("wild_last", replaced(f39=10_000_000), whole=(), lost=1),
    stamped("wild_first", [0, *(t + 900_000 for t in EVEN[1:])], whole=(), lost=1),
    stamped("wild_inside", replaced(f20=500_000), container="mp4", whole=("h264",),
            timed=False),
    stamped("two_wild", replaced(f20=500_000, f30=10), container="mp4", whole=("h264",),
            timed=False),
    stamped("step_back", replaced(f20=500), whole=("h264",), timed=False),
    stamped("step_back_mp4", replaced(f20=500), container="mp4", whole=("h264",), timed=False),
    stamped("equal", replaced(f20=1900), whole=("h264",), timed=False),
    stamped("each_twice", [200 * (n // 2) for n in range(40)], whole=("h264",), timed=False),
    stamped("clock_back", [*EVEN[:20], *(tick - 1500 for tick in EVEN[20:])], timed=False,
            whole=("h264",)),
    # Edit lists: (duration, start) in seconds; 40 frames, a key frame every 12.
    edited("hide_1", (3.9, 0.1)),
    edited("hide_2", (3.8, 0.2)),
    edited("hide_13", (2.7, 1.3)),
    edited("hide_b_frames", (3.5, 0.5), bf=2),
    edited("hide_last", (3.0, 0.0)),
    edited("hide_last_b_frames", (2.6, 0.0), bf=2),
    edited("hide_both", (2.0, 0.7), bf=2),
    edited("empty_edit", (1.0, -1), (4.0, 0.0)),
    edited("empty_edit_and_hide", (1.0, -1), (3.4, 0.6)),
    edited("two_edits", (1.0, 0.0), (1.5, 2.5), whole=("h264",)),
    edited("two_edits_at_keys", (1.2, 0.0), (1.2, 2.4), whole=("h264",)),
    edited("played_twice", (1.2, 0.0), (1.2, 0.0), whole=("h264",)),
    # Files one behind another.
    joined("joined_ts", "ts", whole=("h264",), timed=False),
    joined("joined_mpg", "mpg", whole=("h264",), timed=False),
    joined("joined_mkv", "mkv", whole=(), timed=False),
]  # fmt: skip


@pytest.mark.parametrize("route", INPUT_ROUTES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_frame_that_is_shown_is_there_once(case: Case, route: str, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    shown = ffmpeg_frames(path, WIDTH, HEIGHT)
    assert len(shown) > 11
    found = read_by_route(route, path, shown)
    gone = missing_frames(found, shown, timed=case.timed)
    assert len(gone) <= case.lost or found.rejection_reasons, (
        f"frames {gone} are left out without a row"
    )
    if route in case.whole:
        assert (gone, found.rejection_reasons) == ([], [])
    elif case.lost and route == "h264":
        assert len(gone) == case.lost
        assert found.rejection_reasons
    cut = [clip for clip in found.clips if len(clip.images) > 1 and route == "h264"]
    assert max((clip.duration_s for clip in cut), default=0.0) <= SEGMENT_S + 1e-6
