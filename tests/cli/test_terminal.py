"""Progress: plain lines where there is no terminal, and figures as a person reads them."""

from __future__ import annotations

import io

import pytest

from orchestrator.cli import progress_display as terminal
from orchestrator.cli.progress_display import ProgressBars, ProgressLines, open_progress
from orchestrator.progress import SilentProgress
from orchestrator.text import format_bytes, format_duration, format_number


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def test_lines_are_rare_and_tell_the_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    for step in range(801):
        lines.update("train", step, 800, {"loss": 0.51234, "data wait": "3%"})
        clock.now += 0.125
    shown = stream.getvalue().splitlines()
    # 100 seconds: a line every five, and the last.
    assert 18 <= len(shown) <= 23
    assert "400/800   50%  50 s left  loss 0.5123  data wait 3%" in shown[10]
    assert shown[-1].startswith("train    800/800  100%")


def test_lines_of_a_long_job_grow_rarer(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    for step in range(100_000):
        lines.update("train", step, 100_000)
        clock.now += 1.0
    assert len(stream.getvalue().splitlines()) < 400


def test_time_left_counts_from_where_a_run_continued(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.update("train", 900, 1000)
    clock.now += 10
    lines.update("train", 950, 1000)
    assert "10 s left" in stream.getvalue().splitlines()[-1]


def test_stages_and_unknown_totals(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.update("pack", 3, 0)
    lines.update("train", 1, 10)
    lines.message("packed")
    assert stream.getvalue().splitlines() == ["pack     3", "train    1/10   10%", "packed"]


def test_bars_take_every_call() -> None:
    with ProgressBars(stderr=True) as bars:
        bars.update("pack", 0, 0)
        bars.update("pack", 5, 10, {"clips/s": 3.0})
        bars.message("[not markup]")
        bars.update("train", 10, 10, {"loss": 0.1, "data wait": "2%"})


def test_progress_suits_what_it_is_shown_on() -> None:
    with open_progress(quiet=True, json=False) as progress:
        assert isinstance(progress, SilentProgress)
    with open_progress(quiet=False, json=False) as progress:
        assert isinstance(progress, ProgressLines)


def test_figures() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1536, 3.4 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.4 GiB",
    ]
    assert [format_number(n) for n in (0.5, 484896, 3.228e6, 1.85e14)] == [
        "0.5", "484,896", "3.228 M", "185 T",
    ]  # fmt: skip
    assert [format_duration(s) for s in (0.25, 4.24, 59.4, 192, 3600 * 30)] == [
        "250 ms", "4.2 s", "59 s", "3 min 12 s", "30 h 0 min",
    ]  # fmt: skip
