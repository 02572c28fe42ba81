"""Where a timeline is cut: even segments that no jump of the clock lies in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from orchestrator.data.codec.timeline import Seconds, Span, is_even
from orchestrator.data.codec.video_probe import VideoFacts, measured_rate


@dataclass(frozen=True)
class Segment:
    """Frames `first` to `last` (exclusive). `even`: they are one interval of `fps` apart."""

    first: int
    last: int
    fps: Fraction
    duration_s: float
    even: bool

    @property
    def frames(self) -> int:
        return self.last - self.first


def even_segments(facts: VideoFacts, longest_s: float) -> list[Segment]:
    """Segments of at most `longest_s` seconds. Frames that stand alone between two jumps of the
    clock are in none."""
    segments: list[Segment] = []
    for span in facts.timeline.spans:
        if span.frames < 2:
            continue
        times, fps = facts.times[span.first : span.last], facts.fps_of(span)
        found = _of_even_rate(span, fps, longest_s)
        if not is_even(times, float(fps)):
            found = _of_times(span, times, longest_s)
        segments += found
    return segments


def lone_frames(facts: VideoFacts) -> int:
    """How many frames stand alone between two jumps of the clock."""
    return sum(span.frames < 2 for span in facts.timeline.spans)


def _of_even_rate(span: Span, fps: Fraction, longest_s: float) -> list[Segment]:
    longest = max(1, math.floor(longest_s * fps + 1e-6))
    count = math.ceil(span.frames / longest)
    bounds = [span.first + span.frames * part // count for part in range(count + 1)]
    return [
        Segment(first, last, fps, float((last - first) / fps), even=True)
        for first, last in pairwise(bounds)
    ]


def _of_times(span: Span, times: Seconds, longest_s: float) -> list[Segment]:
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
    return [_timed(span, times, first, last, interval) for first, last in pairwise(bounds)]


def _timed(span: Span, times: Seconds, first: int, last: int, interval: float) -> Segment:
    own = times[first:last]
    fps = measured_rate(own) if last - first > 1 else Fraction(1 / interval).limit_denominator(1001)
    duration = float(own[-1] - own[0]) + interval
    return Segment(span.first + first, span.first + last, fps, duration, even=False)
