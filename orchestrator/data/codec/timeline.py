"""When the frames of a video are shown: a timeline without the faults that timestamps have.

Timestamps come in the order in which the decoder gives frames. Equal ones are spread, missing
ones and single wild ones are interpolated, and where the clock jumps the timeline is split: no
clip crosses a jump, so every clip keeps the real speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError

Seconds = npt.NDArray[np.float64]
Ticks = npt.NDArray[np.int64]

MAX_FRAME_GAP_S = 10.0
"""Seconds for which one frame may be shown within a clip. A longer gap splits the timeline,
unless the whole video is that slow."""

_SLOW_VIDEO_GAP_FACTOR = 8.0
"""A gap of as many typical intervals is no jump, however long it is."""

_MAX_CONSECUTIVE_OUTLIERS = 2
"""Frames in a row whose timestamps may be wild while those around them follow one another."""

_MAX_REORDER_DISTANCE = 16
"""Places by which a coder may move a frame."""

_MAX_OUTLIER_FRACTION = 0.05
"""Share of a video's timestamps that may be wild before they are not believed at all."""


@dataclass(frozen=True)
class FrameSpan:
    """Frames `first` to `last` (exclusive) between two jumps of the clock."""

    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Timeline:
    """Frames in the order in which they are shown.

    `times`: float64 [frames], seconds; rising within each of `spans`, which cover all frames.
    `ticks`: int64 [frames], the timestamps as the file has them, rising; None where some had to be
    repaired, and frames are known by their order alone.
    """

    times: Seconds
    spans: tuple[FrameSpan, ...]
    pts: Ticks | None


def exact_timeline(ticks: Sequence[int], time_base: float) -> Timeline:
    """The timeline of strictly rising timestamps (`time_base` seconds each), split at long gaps."""
    rising = np.asarray(ticks, dtype=np.int64)
    times = (rising - rising[0]) * time_base
    return Timeline(times, split_at_gaps(times), rising)


def split_at_gaps(times: Seconds) -> tuple[FrameSpan, ...]:
    """Spans of rising times (seconds) without a gap that is longer than `max_gap_s`."""
    gaps = np.diff(times)
    cuts = (np.flatnonzero(gaps > max_gap_s(gaps) + 1e-6) + 1).tolist() if len(gaps) else []
    return tuple(FrameSpan(first, last) for first, last in pairwise([0, *cuts, len(times)]))


def has_constant_rate(times: Seconds, fps: float) -> bool:
    """Whether each frame is less than a quarter of an interval away from its place at an even rate:
    two frames are then less than half an interval nearer or farther than they should be."""
    away = times - times[0] - np.arange(len(times)) / fps
    return bool(np.abs(away).max() < 0.25 / fps)


def max_gap_s(gaps: Seconds) -> float:
    """Seconds between two frames beyond which the clock is taken to have jumped."""
    return max(MAX_FRAME_GAP_S, _SLOW_VIDEO_GAP_FACTOR * float(np.median(gaps)))


def repair_timeline(ticks: Sequence[int | None], time_base: float) -> Timeline:
    """The timeline of frames in the order in which a decoder gave them.

    Args:
        ticks: timestamps of `time_base` seconds; None where a frame has none.

    Raises:
        DataError: fewer than two timestamps are known, or too many are out of order.
    """
    known = [at for at, tick in enumerate(ticks) if tick is not None]
    values = [tick for tick in ticks if tick is not None]
    if len(known) == len(ticks) and all(early < late for early, late in pairwise(values)):
        return exact_timeline(values, time_base)
    if len(set(values)) < 2:
        raise DataError("its frames have no timestamps that differ")
    if len(known) == len(ticks) and _is_reordered(values):
        exact = exact_timeline(sorted(values), time_base)
        return Timeline(exact.times, exact.spans, None)
    times = np.full(len(ticks), np.nan)
    times[known] = (np.asarray(values, dtype=np.float64) - values[0]) * time_base
    spread = _spread_duplicates(times[known])
    typical = _median_interval(spread)
    runs = _plausible_runs(spread, typical)
    wild = len(known) - sum(map(len, runs))
    if wild > max(_MAX_CONSECUTIVE_OUTLIERS, _MAX_OUTLIER_FRACTION * len(known)):
        raise DataError(f"the timestamps of {wild} of {len(known)} frames are out of order")
    times[:] = np.nan
    for run in runs:
        times[[known[at] for at in run]] = spread[run]
    bounds = [0, *(known[run[0]] for run in runs[1:]), len(ticks)]
    spans = tuple(FrameSpan(first, last) for first, last in pairwise(bounds))
    for span in spans:
        _interpolate(times[span.start : span.stop], typical)
    return Timeline(times, spans, None)


def _is_reordered(ticks: Sequence[int]) -> bool:
    """Whether timestamps are those of another order, again and again: of decoding, for example.
    Then the frames are shown at the same times, in the decoder's order."""
    order = np.argsort(np.asarray(ticks), kind="stable")
    near = np.abs(order - np.arange(len(ticks))).max() <= _MAX_REORDER_DISTANCE
    falls = int((np.diff(np.asarray(ticks)) <= 0).sum())
    return bool(
        near
        and falls > max(2 * _MAX_CONSECUTIVE_OUTLIERS, _MAX_OUTLIER_FRACTION * len(ticks))
        and len(set(ticks)) == len(ticks)
    )


def _spread_duplicates(times: Seconds) -> Seconds:
    """Equal times in a row, spread evenly up to the next later one."""
    typical = _median_interval(times[np.diff(times, prepend=np.nan) != 0])
    result = times.copy()
    first = 0
    for at in range(1, len(times) + 1):
        if at < len(times) and times[at] == times[first]:
            continue
        count = at - first
        if count > 1:
            room = times[at] - times[first] if at < len(times) else typical
            room = room if 0 < room <= 2 * typical else typical
            result[first:at] += np.arange(count) * room / count
        first = at
    return result


def _median_interval(times: Seconds) -> float:
    """The median interval between times that rise."""
    gaps = np.diff(times)
    rising = gaps[gaps > 0]
    return float(np.median(rising)) if len(rising) else MAX_FRAME_GAP_S


def _plausible_runs(times: Seconds, typical: float) -> list[list[int]]:
    """Of each part without a jump of the clock the frames whose times are believed.

    Where a time does not follow the one before it, either it is wild (one of the next follows), or
    the last ones before it were, or the clock has jumped.
    """
    limit = max(MAX_FRAME_GAP_S, _SLOW_VIDEO_GAP_FACTOR * typical)

    def follows(early: int, late: int) -> bool:
        if late >= len(times):
            return False
        gap, between = times[late] - times[early], late - early - 1
        return bool(0 < gap <= limit and (not between or gap >= (between + 1) * typical / 2))

    runs, at = [[0]], 1
    while at < len(times):
        run, wild = runs[-1], range(1, _MAX_CONSECUTIVE_OUTLIERS + 1)
        if not follows(run[-1], at):
            after = next((count for count in wild if follows(run[-1], at + count)), 0)
            before = next((n for n in wild if n < len(run) and follows(run[-1 - n], at)), 0)
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
    """Replace NaN by times between the neighbours, in place; at the ends by typical intervals."""
    at = np.arange(len(times))
    there = np.flatnonzero(~np.isnan(times))
    first, last = there[0], there[-1]
    times[first:last] = np.interp(at[first:last], there, times[there])
    times[:first] = times[first] - (first - at[:first]) * typical
    times[last + 1 :] = times[last] + (at[last + 1 :] - last) * typical
