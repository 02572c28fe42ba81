"""Where a timeline is cut: even segments that no jump of the clock lies in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from orchestrator.data.codec.timeline import FrameSpan, Seconds, has_constant_rate
from orchestrator.data.codec.video_probe import VideoInfo, mean_fps


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (exclusive). `constant_rate`: they are one interval of `fps`
    apart."""

    start: int
    stop: int
    fps: Fraction
    duration_s: float
    constant_rate: bool

    @property
    def frames(self) -> int:
        return self.stop - self.start


def find_segments(facts: VideoInfo, max_segment_s: float) -> list[Segment]:
    """Segments of at most `longest_s` seconds. Frames that stand alone between two jumps of the
    clock are in none."""
    segments: list[Segment] = []
    for span in facts.timeline.spans:
        if span.frames < 2:
            continue
        times, fps = facts.frame_times[span.start : span.stop], facts.fps_of_span(span)
        found = _constant_rate_segments(span, fps, max_segment_s)
        if not has_constant_rate(times, float(fps)):
            found = _variable_rate_segments(span, times, max_segment_s)
        segments += found
    return segments


def count_isolated_frames(facts: VideoInfo) -> int:
    """How many frames stand alone between two jumps of the clock."""
    return sum(span.frames < 2 for span in facts.timeline.spans)


def _constant_rate_segments(span: FrameSpan, fps: Fraction, longest_s: float) -> list[Segment]:
    longest = max(1, math.floor(longest_s * fps + 1e-6))
    count = math.ceil(span.frames / longest)
    bounds = [span.start + span.frames * part // count for part in range(count + 1)]
    return [
        Segment(first, last, fps, float((last - first) / fps), constant_rate=True)
        for first, last in pairwise(bounds)
    ]


def _variable_rate_segments(span: FrameSpan, times: Seconds, longest_s: float) -> list[Segment]:
    """Cuts between frames that are shown at their own times: as even as the frames allow."""
    interval = float(np.median(np.diff(times)))
    end = float(times[-1]) + interval
    bounds = [0]
    while bounds[-1] < len(times):
        first = bounds[-1]
        parts = math.ceil((end - times[first]) / longest_s - 1e-9)
        target = times[first] + (end - times[first]) / max(1, parts)
        within = int(np.searchsorted(times, times[first] + longest_s - interval + 1e-9, "right"))
        wanted = int(np.searchsorted(times, target - 1e-9)) if parts > 1 else len(times)
        bounds.append(max(first + 1, min(wanted, within)))
    return [
        _variable_rate_segment(span, times, first, last, interval)
        for first, last in pairwise(bounds)
    ]


def _variable_rate_segment(
    span: FrameSpan, times: Seconds, first: int, last: int, interval: float
) -> Segment:
    own = times[first:last]
    fps = mean_fps(own) if last - first > 1 else Fraction(1 / interval).limit_denominator(1001)
    duration = float(own[-1] - own[0]) + interval
    return Segment(span.start + first, span.start + last, fps, duration, constant_rate=False)
