"""Drawn videos: odd times, edits, orientations, sizes and containers. What FFmpeg shows is what is
trained on, or a row says what is not. `make test-nightly` draws 2,000 of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from orchestrator.errors import DataError
from tests.support.ffmpeg_reference import ffmpeg_frames
from tests.support.input_routes import INPUT_ROUTES, missing_frames, read_by_route
from tests.support.unusual_videos import (
    DISPLAY_MATRICES,
    HEIGHT,
    WIDTH,
    concatenate_files,
    numbered_frame,
    set_display_matrix,
    set_edit_list,
    write_with_timestamps,
)

CONTAINERS = ("mp4", "mov", "mkv", "ts", "flv")
FAULTS = ("wild", "equal", "back", "rest", "drop")


@dataclass(frozen=True)
class Drawn:
    """A video to make. `times`: milliseconds; `clean`: they rise as the frames are shown."""

    container: str
    times: tuple[int, ...]
    clean: bool
    options: tuple[tuple[str, str], ...]
    matrix: str
    edits: tuple[tuple[float, float], ...]
    pixel: Fraction | None
    twice: bool

    def make(self, folder: Path) -> Path:
        """The file."""
        base = Fraction(1, 90_000) if self.container == "ts" else Fraction(1, 1000)
        ticks = [round(time / 1000 / base) for time in self.times]
        path = write_with_timestamps(
            folder / f"video.{self.container}",
            len(ticks),
            ticks=ticks,
            base=base,
            pixel=self.pixel,
            **dict(self.options),
        )
        if self.container in ("mp4", "mov"):
            set_display_matrix(path, *DISPLAY_MATRICES[self.matrix])
            if self.edits:
                set_edit_list(path, self.edits)
        if self.twice:
            pictures = [numbered_frame(n + 60) for n in range(14)]
            behind = write_with_timestamps(folder / f"behind.{self.container}", pictures, base=base)
            concatenate_files(path, path, behind)
        return path


@st.composite
def videos(draw: st.DrawFn) -> Drawn:
    container = draw(st.sampled_from(CONTAINERS))
    count = draw(st.integers(14, 56))
    step = draw(st.sampled_from([1, 4, 17, 40, 100, 250]))
    gaps = [step] * count
    if draw(st.booleans()):
        gaps = draw(st.lists(st.integers(step, 3 * step), min_size=count, max_size=count))
    times = np.cumsum([draw(st.sampled_from([0, 0, 700, 5000])), *gaps[1:]])
    clean = True
    for fault in draw(st.lists(st.sampled_from(FAULTS), max_size=2)):
        at = draw(st.integers(1, count - 2))
        if fault == "wild":
            times[at], clean = draw(st.sampled_from([0, 10**6, 10**7])), False
        elif fault == "equal":
            times[at], clean = times[at - 1], False
        elif fault == "back":
            times[at:], clean = times[at:] - draw(st.integers(2, 30)) * step, False
        elif fault == "rest":
            times[at:] += draw(st.sampled_from([1500, 6000, 70_000]))
        else:
            times[at:] += draw(st.integers(1, 5)) * step
    options = {"bf": draw(st.sampled_from("0023")), "g": str(draw(st.sampled_from([5, 12, 60])))}
    if options["bf"] == "3" and draw(st.booleans()):
        options["x264-params"] = "open-gop=1"
    edits: tuple[tuple[float, float], ...] = ()
    if clean and container in ("mp4", "mov") and draw(st.booleans()):
        long = (times[-1] - times[0]) / 1000
        cuts = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=4)))
        edits = tuple(
            (round((b - a) * long, 3), round(a * long, 3))
            for a, b in zip(cuts[::2], cuts[1::2], strict=False)
            if (b - a) * long > 3 * step / 1000
        )
    return Drawn(
        container=container,
        times=tuple(int(time - min(0, times.min())) for time in times),
        clean=clean and not edits,
        options=tuple(options.items()),
        matrix=draw(st.sampled_from(list(DISPLAY_MATRICES))),
        edits=edits,
        pixel=draw(st.sampled_from([None, None, Fraction(4, 3), Fraction(2, 3)])),
        twice=container in ("ts", "mp4") and draw(st.integers(0, 5)) == 0,
    )


def upright_size(video: Drawn) -> tuple[int, int]:
    """Width and height of the frames that are shown."""
    width, height = WIDTH, HEIGHT
    if video.pixel:
        width, height = (96, 48) if video.pixel > 1 else (64, 64)
    turned = video.container in ("mp4", "mov") and not DISPLAY_MATRICES[video.matrix][0]
    return (height, width) if turned else (width, height)


def check(video: Drawn) -> None:
    """No route may show another frame than FFmpeg, or leave one out without a row."""
    with tempfile.TemporaryDirectory() as folder:
        path = video.make(Path(folder))
        shown = ffmpeg_frames(path, *upright_size(video))
        for route in INPUT_ROUTES:
            note(f"route {route}, {len(shown)} frames shown")
            found = read_by_route(route, path, shown)
            gone = missing_frames(found, shown, timed=video.clean and not video.twice)
            note(f"frames {gone} are not there; rows: {found.rejection_reasons}")
            assert not gone or found.rejection_reasons
            if video.clean and not video.twice and route == "h264":
                single = "single frames between jumps"
                assert not [row for row in found.rejection_reasons if single not in row]


@pytest.mark.nightly
@settings(max_examples=2000)
@given(video=videos())
def test_no_drawn_video_differs_silently(video: Drawn) -> None:
    try:
        check(video)
    except DataError as error:
        raise AssertionError(f"a route raised: {error}") from error


@pytest.mark.integration
@settings(max_examples=12)
@given(video=videos())
def test_a_dozen_drawn_videos_do_not_differ(video: Drawn) -> None:
    check(video)
