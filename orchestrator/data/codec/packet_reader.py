"""Reads only the packets of an encoded clip that are needed to decode the wanted frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.packet_table import MAX_PACKETS_BEFORE_JOIN
from orchestrator.errors import DataError

_MAX_CACHED_PACKETS = 256
"""Packets of a short clip that are kept, so that they are read once. Keeping thousands would
trigger Python's garbage collection."""

_FIRST_SEEK_BACK_S = 0.5
"""Seconds that a seek goes back after it landed too late; doubled each time."""


def read_packets_by_time(
    container: Any, stream: Any, times: np.ndarray
) -> tuple[list[Any], np.ndarray]:
    """Read the packets that are needed for the frames shown at some times.

    Args:
        times: float64, seconds from the first frame, ascending.

    Returns:
        Packets in decoding order, and the timestamps of the wanted frames, int64 [times].

    Raises:
        DataError: the packets are damaged, lack timestamps, or end before the last time.
    """
    time_base = float(stream.time_base)
    wanted = (stream.start_time or 0) + times / time_base
    packets = _read_range(container, stream, wanted)
    return packets, _pts_at(packets, wanted, time_base)


def read_packets_by_index(
    container: Any, stream: Any, frame_indices: np.ndarray
) -> tuple[list[Any], np.ndarray]:
    """Read the packets that are needed for some frames, without decoding.

    Args:
        frame_indices: int64, ascending; frames counted from 0 in display order.

    Returns:
        Packets in decoding order, and the timestamps of the wanted frames, int64 [frames].

    Raises:
        DataError: the packets are damaged, lack timestamps, or there are fewer frames.
    """
    shown: list[int] = []
    kept: list[Any] = []
    count = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        count += 1
        if count <= _MAX_CACHED_PACKETS:
            kept.append(packet)
        if not packet.is_discard:
            shown.append(_pts_of(packet))
    if frame_indices[-1] >= len(shown):
        raise DataError(f"has {len(shown)} frames, frame {frame_indices[-1]} is wanted")
    ticks = np.sort(np.array(shown, dtype=np.int64))
    wanted = ticks[frame_indices].astype(np.float64)
    cached = _select_cached(kept, wanted) if len(kept) == count else []
    packets = cached or _read_range(container, stream, wanted)
    return packets, _pts_at(packets, wanted, float(stream.time_base))


def _select_cached(packets: list[Any], wanted: np.ndarray) -> list[Any]:
    """The packets that `_read_range` would read; none if no key frame is early enough."""
    for first in reversed(range(len(packets))):
        if packets[first].is_keyframe and packets[first].pts <= wanted[0] + 0.5:
            return _take_until(packets[first:], wanted[-1])
    return []


def _read_range(container: Any, stream: Any, wanted: np.ndarray) -> list[Any]:
    """Read the packets, in decoding order, from the key frame before the first time to the last.

    A demuxer that seeks by decoding time, or without an index, can land after that key frame. The
    seek is then repeated, each time twice as far back, so that few seeks are needed.
    """
    ticks_per_s = int(1 / stream.time_base)
    # Transport streams seek to their first packet only for times before it.
    start = (stream.start_time or 0) - ticks_per_s
    target, step = int(wanted[0]), 1
    while True:
        _seek(container, stream, target)
        packets = _take_until(container.demux(stream), wanted[-1])
        if packets and packets[0].pts <= wanted[0] + 0.5:
            return packets
        if target <= start:
            if not packets:
                raise DataError("holds no frames")
            return packets
        target = max(min(target, _landing_tick(packets, target)) - step, start)
        step = max(2 * step, round(_FIRST_SEEK_BACK_S * ticks_per_s))


def _seek(container: Any, stream: Any, target: int) -> None:
    try:
        container.seek(target, stream=stream, backward=True)
    except FFmpegError:
        if target >= 0:
            raise
        container.seek(0, stream=stream, backward=True)  # some demuxers accept no earlier time


def _landing_tick(packets: list[Any], target: int) -> int:
    if not packets:
        return target
    first = packets[0]
    return int(first.pts if first.dts is None else first.dts)


def _take_until(stream: Iterable[Any], last: float) -> list[Any]:
    """Packets from the first key frame to the time `last` (ticks).

    Raises:
        DataError: packets are marked corrupt.
    """
    packets: list[Any] = []
    corrupt = 0  # packets since the last one marked corrupt, including it
    for packet in stream:
        if packet.size == 0 or (not packets and not packet.is_keyframe):
            continue
        _pts_of(packet)
        corrupt = 0 if packet.is_keyframe else corrupt and corrupt + 1
        if corrupt > MAX_PACKETS_BEFORE_JOIN + 1:
            break
        corrupt = corrupt or int(packet.is_corrupt)
        # Frames are shown no earlier than they are decoded, so no wanted frame follows.
        # (Matroska does not store decoding times; right after a seek they are unknown.)
        if packet.dts is not None and packet.dts > last + 0.5:
            break
        packets.append(packet)
    if corrupt:
        raise DataError("is damaged")
    return packets


def _pts_of(packet: Any) -> int:
    if packet.pts is None:
        raise DataError("has frames without a timestamp", hint="pack it with mode h264")
    return int(packet.pts)


def _pts_at(packets: list[Any], wanted: np.ndarray, time_base: float) -> np.ndarray:
    """Timestamps of the frames shown at the wanted times (both in ticks of `time_base` seconds)."""
    shown = np.sort(np.array([p.pts for p in packets if not p.is_discard], dtype=np.int64))
    indices = np.searchsorted(shown, wanted + 0.5, side="right") - 1
    if not len(shown) or indices[0] < 0:
        raise DataError("has no key frame before the clip's first frame")
    longest = max(packets[-1].duration or 0, int(np.max(np.diff(shown), initial=1)))
    end = shown[-1] + longest
    if wanted[-1] > end + 0.5:
        missing_s = (wanted[-1] - end) * time_base
        raise DataError(f"ends {missing_s:.2f} s before the clip's last frame")
    return np.asarray(shown[indices])
