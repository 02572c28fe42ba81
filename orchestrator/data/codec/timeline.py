"""Display times of the frames of a video, with faulty timestamps repaired.

Timestamps come in the decoder's output order. Equal ones are spread out, missing ones and single
outliers are interpolated, and the timeline is split where the timestamps jump: no clip crosses a
jump, so every clip keeps its real speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError

Seconds = npt.NDArray[np.float64]

Ticks = npt.NDArray[np.int64]


MAX_FRAME_GAP_S = 10.0
"""Longest time in seconds between two frames of a clip. A longer gap splits the timeline, unless
the video has a frame rate that low."""


_SLOW_VIDEO_GAP_FACTOR = 8.0
"""A gap of at most this many median intervals is never a jump, however long it is."""


_MAX_CONSECUTIVE_OUTLIERS = 2
"""Frames in a row whose timestamps may be outliers between timestamps that fit together."""


_MAX_REORDER_DISTANCE = 16
"""Most frames by which an encoder reorders a frame."""


_MAX_OUTLIER_FRACTION = 0.05
"""Largest share of a video's timestamps that may be outliers; with more, the video is rejected."""


@dataclass(frozen=True)
class FrameSpan:
    """Frames `start` to `stop` (exclusive) between two jumps of the timestamps."""

    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Timeline:
    """Display times of the frames of a video, in display order."""

    times: Seconds
    """float64 [frames], seconds; increasing within each span."""

    spans: tuple[FrameSpan, ...]
    """Cover all frames; the timestamps jump between two of them."""

    pts: Ticks | None
    """int64 [frames], the file's own timestamps, increasing; None if some had to be repaired:
    frames are then identified by their order alone."""


def exact_timeline(ticks: Sequence[int], time_base: float) -> Timeline:
    """The timeline of strictly increasing timestamps, split at long gaps.

    Args:
        time_base: seconds of a tick.
    """
    rising = np.asarray(ticks, dtype=np.int64)
    times = (rising - rising[0]) * time_base
    return Timeline(times, split_at_gaps(times), rising)


def split_at_gaps(times: Seconds) -> tuple[FrameSpan, ...]:
    """Spans of increasing times (seconds) without a gap longer than `max_gap_s`."""
    gaps = np.diff(times)
    cuts = (np.flatnonzero(gaps > max_gap_s(gaps) + 1e-6) + 1).tolist() if len(gaps) else []
    return tuple(FrameSpan(first, last) for first, last in pairwise([0, *cuts, len(times)]))


def has_constant_rate(times: Seconds, fps: float) -> bool:
    """Whether each frame is within a quarter of an interval of its time at a constant rate.

    The distance of two frames is then wrong by less than half an interval.
    """
    deviation = times - times[0] - np.arange(len(times)) / fps
    return bool(np.abs(deviation).max() < 0.25 / fps)


def max_gap_s(gaps: Seconds) -> float:
    """Longest gap in seconds between two frames; a longer one is a jump of the timestamps."""
    return max(MAX_FRAME_GAP_S, _SLOW_VIDEO_GAP_FACTOR * float(np.median(gaps)))


def repair_timeline(ticks: Sequence[int | None], time_base: float) -> Timeline:
    """Build the timeline of frames from their timestamps, repairing those that are wrong.

    Args:
        ticks: timestamps in the decoder's output order; None where a frame has none.
        time_base: seconds of a tick.

    Raises:
        DataError: fewer than two timestamps are known, or too many are out of order.
    """
    given = [at for at, tick in enumerate(ticks) if tick is not None]
    values = [tick for tick in ticks if tick is not None]
    if len(given) == len(ticks) and all(early < late for early, late in pairwise(values)):
        return exact_timeline(values, time_base)
    if len(set(values)) < 2:
        raise DataError("its frames have no timestamps that differ")
    if len(given) == len(ticks) and _is_reordered(values):
        exact = exact_timeline(sorted(values), time_base)
        return Timeline(exact.times, exact.spans, None)
    times = np.full(len(ticks), np.nan)
    times[given] = (np.asarray(values, dtype=np.float64) - values[0]) * time_base
    distinct = _spread_duplicates(times[given])
    typical = _median_interval(distinct)
    runs = _plausible_runs(distinct, typical)
    outliers = len(given) - sum(map(len, runs))
    if outliers > max(_MAX_CONSECUTIVE_OUTLIERS, _MAX_OUTLIER_FRACTION * len(given)):
        raise DataError(f"the timestamps of {outliers} of {len(given)} frames are out of order")
    times[:] = np.nan
    for run in runs:
        times[[given[at] for at in run]] = distinct[run]
    bounds = [0, *(given[run[0]] for run in runs[1:]), len(ticks)]
    spans = tuple(FrameSpan(first, last) for first, last in pairwise(bounds))
    for span in spans:
        _interpolate(times[span.start : span.stop], typical)
    return Timeline(times, spans, None)


def _is_reordered(ticks: Sequence[int]) -> bool:
    """Whether the timestamps are right but in another order, such as that of decoding.

    The frames are then shown at the same times, in the decoder's output order.
    """
    order = np.argsort(np.asarray(ticks), kind="stable")
    is_near = np.abs(order - np.arange(len(ticks))).max() <= _MAX_REORDER_DISTANCE
    num_falls = int((np.diff(np.asarray(ticks)) <= 0).sum())
    return bool(
        is_near
        and num_falls > max(2 * _MAX_CONSECUTIVE_OUTLIERS, _MAX_OUTLIER_FRACTION * len(ticks))
        and len(set(ticks)) == len(ticks)
    )


def _spread_duplicates(times: Seconds) -> Seconds:
    """Spread equal times in a row evenly up to the next later one."""
    typical = _median_interval(times[np.diff(times, prepend=np.nan) != 0])
    result = times.copy()
    first = 0
    for i in range(1, len(times) + 1):
        if i < len(times) and times[i] == times[first]:
            continue
        count = i - first
        if count > 1:
            gap = times[i] - times[first] if i < len(times) else typical
            gap = gap if 0 < gap <= 2 * typical else typical
            result[first:i] += np.arange(count) * gap / count
        first = i
    return result


def _median_interval(times: Seconds) -> float:
    """The median of the positive intervals between times."""
    gaps = np.diff(times)
    rising = gaps[gaps > 0]
    return float(np.median(rising)) if len(rising) else MAX_FRAME_GAP_S


def _plausible_runs(times: Seconds, typical: float) -> list[list[int]]:
    """Frames with plausible times, in one list per part without a jump of the timestamps.

    Where a time does not follow the one before it, either it is an outlier (one of the next times
    follows), or the last ones before it are, or the timestamps jump.
    """
    limit = max(MAX_FRAME_GAP_S, _SLOW_VIDEO_GAP_FACTOR * typical)

    def follows(early: int, late: int) -> bool:
        if late >= len(times):
            return False
        gap, between = times[late] - times[early], late - early - 1
        return bool(0 < gap <= limit and (not between or gap >= (between + 1) * typical / 2))

    runs, at = [[0]], 1
    while at < len(times):
        run, counts = runs[-1], range(1, _MAX_CONSECUTIVE_OUTLIERS + 1)
        if not follows(run[-1], at):
            after = next((count for count in counts if follows(run[-1], at + count)), 0)
            before = next((n for n in counts if n < len(run) and follows(run[-1 - n], at)), 0)
            if after:
                at += after
            elif before:
                del run[-before:]
            else:
                runs.append([])
        runs[-1].append(at)
        at += 1
    return runs


def _interpolate(times: Seconds, typical: float) -> None:
    """Interpolate NaN between the neighbouring times, in place; extrapolate at both ends.

    Args:
        typical: seconds between two frames beyond the first and the last known time.
    """
    i = np.arange(len(times))
    known = np.flatnonzero(~np.isnan(times))
    first, last = known[0], known[-1]
    times[first:last] = np.interp(i[first:last], known, times[known])
    times[:first] = times[first] - (first - i[:first]) * typical
    times[last + 1 :] = times[last] + (i[last + 1 :] - last) * typical


def mean_fps(times: Seconds) -> Fraction:
    """Average frames per second of increasing times (seconds)."""
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return Fraction(measured).limit_denominator(1001) or Fraction(1, 1001)
