"""The packets of a video stream: what a demuxer tells of each without decoding it."""

from __future__ import annotations

import heapq
from array import array
from typing import Any

import numpy as np

from orchestrator.data.codec.timeline import Ticks

_NO_TIMESTAMP = -(2**63)

MAX_PACKETS_BEFORE_JOIN = 3
"""Packets before a key frame that a transport stream may call corrupt where files are joined."""


class PacketTable:
    """Packets in coded order. 17 bytes each: hours of video are no burden."""

    def __init__(self) -> None:
        self._ticks, self._coded, self._flags = array("q"), array("q"), bytearray()

    def __len__(self) -> int:
        return len(self._ticks)

    def add(self, packet: Any) -> None:
        """Note one packet."""
        self._ticks.append(_NO_TIMESTAMP if packet.pts is None else packet.pts)
        self._coded.append(_NO_TIMESTAMP if packet.dts is None else packet.dts)
        self._flags.append(packet.is_keyframe | packet.is_discard << 1)

    @property
    def pts(self) -> Ticks:
        """Presentation timestamps, int64 [packets]; the smallest number stands for none."""
        return np.asarray(np.frombuffer(self._ticks, np.int64))

    @property
    def dts(self) -> Ticks:
        """Decoding timestamps, int64 [packets]."""
        return np.asarray(np.frombuffer(self._coded, np.int64))

    @property
    def is_keyframe(self) -> np.ndarray:
        """bool [packets]: key frames."""
        return self._flag(1)

    @property
    def is_discarded(self) -> np.ndarray:
        """bool [packets]: decoded but not shown, as an edit list says."""
        return self._flag(2)

    @property
    def lacks_pts(self) -> np.ndarray:
        """bool [packets]: without a timestamp."""
        return np.asarray(self.pts == _NO_TIMESTAMP)

    @property
    def shown_pts(self) -> Ticks:
        """Timestamps of the packets that are shown, in coded order."""
        return np.asarray(self.pts[~self.is_discarded])

    def is_plausible_display_order(self, reorder_depth: int) -> bool:
        """Whether the timestamps can be the order in which a decoder shows the frames: all there,
        no two alike, every key frame later than all before it, and out of coded order by no more
        than `depth` frames, as many as the decoder holds back."""
        ticks, hidden = self.pts, self.is_discarded
        shown = ticks[~hidden]
        if (shown == _NO_TIMESTAMP).any() or len(np.unique(shown)) != len(shown):
            return False
        highest = np.maximum.accumulate(shown)
        keys = np.flatnonzero(self.is_keyframe[~hidden])
        keys = keys[keys > 0]
        if (shown[keys] <= highest[keys - 1]).any():
            return False
        # Rising times of frames that are coded out of order are those of decoding, not of showing.
        rising = bool((np.diff(shown) > 0).all())
        return (
            reorder_depth == 0 if rising else _sorted_after_reorder(shown.tolist(), reorder_depth)
        )

    def _flag(self, bit: int) -> np.ndarray:
        return np.frombuffer(self._flags, np.uint8) & bit > 0


def _sorted_after_reorder(ticks: list[int], depth: int) -> bool:
    """Whether ticks rise once they pass a buffer that holds back the `depth` latest."""
    waiting: list[int] = []
    last = _NO_TIMESTAMP
    for tick in ticks:
        heapq.heappush(waiting, tick)
        if len(waiting) > depth:
            earliest = heapq.heappop(waiting)
            if earliest < last:
                return False
            last = earliest
    return True
