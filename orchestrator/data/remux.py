"""Cutting a video at its key frames without touching the coded pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import av
from av.error import FFmpegError

from orchestrator.data.probe import VideoFacts, open_video, reason_of
from orchestrator.data.transcode import Piece
from orchestrator.errors import DataError
from orchestrator.job import Encode

FITS_MP4 = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg"})
"""Codecs whose coded stream an mp4 can hold."""


@dataclass(frozen=True)
class _Key:
    """A key frame: how many packets come before it, and its time in seconds."""

    packet: int
    time: float


@dataclass(frozen=True)
class _Layout:
    """Key frames of a stream, and a decoding time for every packet, in coded order.

    Decoding times are made from the display times, since not every container stores them.
    """

    keys: list[_Key]
    dts: list[int]


def remux(file: IO[bytes], facts: VideoFacts, encode: Encode) -> Iterator[Piece | str]:
    """Pieces that start at key frames, as even and at most as long as the key frames allow.

    Raises:
        DataError: the codec does not fit mp4, or packets carry no timestamps.
    """
    if facts.codec not in FITS_MP4:
        raise DataError(f"codec {facts.codec} does not fit mp4: use encode.mode=h264")
    layout = _read_layout(file)
    half_a_frame = 0.5 / float(facts.fps)  # timestamps are often rounded to milliseconds
    starts = _cuts(layout.keys, facts.duration_s, encode.segment + half_a_frame)
    file.seek(0)
    with open_video(file) as (container, stream):
        packets = (p for p in container.demux(stream) if p.size)
        number, waiting = 0, next(packets, None)
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            piece = _Piece(stream, facts)
            while waiting is not None and (end is None or number < end.packet):
                if number >= start.packet:
                    piece.add(waiting, layout.dts[number])
                number, waiting = number + 1, next(packets, None)
            if piece.damaged:
                yield "damaged packets"
                continue
            try:
                yield piece.finish()
            except FFmpegError as error:
                yield f"cannot be copied into an mp4: {reason_of(error)}"


def _read_layout(file: IO[bytes]) -> _Layout:
    file.seek(0)
    keys: list[_Key] = []
    pts: list[int] = []
    with open_video(file) as (container, stream):
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pts is None:
                raise DataError("packets without timestamps cannot be copied: use encode.mode=h264")
            if packet.is_keyframe:
                keys.append(_Key(len(pts), float(packet.pts * stream.time_base)))
            pts.append(packet.pts)
    if not keys:
        raise DataError("no key frame to cut at: use encode.mode=h264")
    shown = sorted(pts)
    delay = max(late - early for late, early in zip(shown, pts, strict=True))
    origin = float(shown[0] * stream.time_base)
    return _Layout(
        keys=[_Key(key.packet, key.time - origin) for key in keys],
        dts=[tick - delay for tick in shown],
    )


def _cuts(keys: list[_Key], duration: float, segment: float) -> list[_Key]:
    """Where pieces start. One piece is longer than `segment` only where no key frame helps."""
    cuts = [keys[0]]
    while True:
        here = cuts[-1]
        pieces = math.ceil((duration - here.time) / segment)
        later = [key for key in keys if key.packet > here.packet]
        if pieces <= 1 or not later:
            return cuts
        target = here.time + (duration - here.time) / pieces
        within = [key for key in later if key.time <= here.time + segment]
        cuts.append(min(within, key=lambda k: abs(k.time - target)) if within else later[0])


class _Piece:
    """One mp4 made of packets, its times moved to start at zero."""

    def __init__(self, stream: Any, facts: VideoFacts) -> None:
        self._facts, self._base = facts, stream.time_base
        self._buffer = io.BytesIO()
        self._container: Any = av.open(self._buffer, "w", format="mp4")
        self._out = self._container.add_stream_from_template(stream, opaque=True)
        self._shift: int | None = None
        self._last, self._frames = 0, 0
        self.damaged = False

    def add(self, packet: Any, dts: int) -> None:
        self.damaged = self.damaged or packet.is_corrupt
        if self._shift is None:
            self._shift = int(packet.pts)
        if packet.pts < self._shift:
            return  # it is shown before the key frame and needs pictures of the piece before
        packet.pts -= self._shift
        packet.dts = dts - self._shift
        self._last = max(self._last, int(packet.pts))
        self._frames += 1
        packet.stream = self._out
        self._container.mux(packet)

    def finish(self) -> Piece:
        self._container.close()
        average = 1.0 / float(self._facts.fps)
        seconds = float(self._last * self._base) + average
        width, height = self._facts.upright
        return Piece(
            payload=self._buffer.getvalue(),
            frames=self._frames,
            fps=self._frames / seconds,
            width=width,
            height=height,
            duration_s=seconds,
            codec=self._facts.codec,
        )
