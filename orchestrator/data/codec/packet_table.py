"""Table of a video stream's packets: the fields that a demuxer gives without decoding."""

from __future__ import annotations

import heapq
from array import array
from typing import Any

import numpy as np

from orchestrator.data.codec.timeline import Ticks

_NO_TIMESTAMP = -(2**63)

MAX_PACKETS_BEFORE_JOIN = 3
"""Packets before a key frame that may be marked corrupt where transport streams were joined."""


class PacketTable:
    """Packets in coded order; 17 bytes each, so that hours of video take megabytes."""

    def __init__(self) -> None:
        self._pts, self._dts, self._flags = array("q"), array("q"), bytearray()

    def __len__(self) -> int:
        return len(self._pts)

    def add(self, packet: Any) -> None:
        """Append one packet."""
        self._pts.append(_NO_TIMESTAMP if packet.pts is None else packet.pts)
        self._dts.append(_NO_TIMESTAMP if packet.dts is None else packet.dts)
        self._flags.append(packet.is_keyframe | packet.is_discard << 1)

    @property
    def pts(self) -> Ticks:
        """Presentation timestamps, int64 [packets]; -2**63 where there is none."""
        return np.asarray(np.frombuffer(self._pts, np.int64))

    @property
    def dts(self) -> Ticks:
        """Decoding timestamps, int64 [packets]."""
        return np.asarray(np.frombuffer(self._dts, np.int64))

    @property
    def is_keyframe(self) -> np.ndarray:
        """bool [packets]: key frames."""
        return self._flag(1)

    @property
    def is_discarded(self) -> np.ndarray:
        """bool [packets]: decoded but not shown, because of an edit list."""
        return self._flag(2)

    @property
    def lacks_pts(self) -> np.ndarray:
        """bool [packets]: without a presentation timestamp."""
        return np.asarray(self.pts == _NO_TIMESTAMP)

    @property
    def shown_pts(self) -> Ticks:
        """Presentation timestamps of the packets that are shown, in coded order."""
        return np.asarray(self.pts[~self.is_discarded])

    def is_plausible_display_order(self, reorder_depth: int) -> bool:
        """Whether the timestamps can be the decoder's display order.

        All must be present and distinct, every key frame later than all before it, and the frames
        out of coded order by at most the decoder's `reorder_depth` frames.
        """
        ticks, hidden = self.pts, self.is_discarded
        shown = ticks[~hidden]
        if (shown == _NO_TIMESTAMP).any() or len(np.unique(shown)) != len(shown):
            return False
        highest = np.maximum.accumulate(shown)
        keys = np.flatnonzero(self.is_keyframe[~hidden])
        keys = keys[keys > 0]
        if (shown[keys] <= highest[keys - 1]).any():
            return False
        # Increasing timestamps of reordered frames are decoding times, not display times.
        increasing = bool((np.diff(shown) > 0).all())
        return (
            reorder_depth == 0
            if increasing
            else _sorted_after_reorder(shown.tolist(), reorder_depth)
        )

    def _flag(self, bit: int) -> np.ndarray:
        return np.frombuffer(self._flags, np.uint8) & bit > 0


def _sorted_after_reorder(ticks: list[int], depth: int) -> bool:
    """Whether ticks increase after a buffer that holds back the `depth` latest."""
    buffer: list[int] = []
    last = _NO_TIMESTAMP
    for tick in ticks:
        heapq.heappush(buffer, tick)
        if len(buffer) > depth:
            earliest = heapq.heappop(buffer)
            if earliest < last:
                return False
            last = earliest
    return True
