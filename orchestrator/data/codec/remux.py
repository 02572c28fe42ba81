"""Copying the coded pictures of a video into mp4s without touching them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import open_video, reason_of
from orchestrator.data.codec.copy_segments import Part
from orchestrator.data.codec.mp4 import set_edit_end
from orchestrator.data.codec.timeline import Ticks
from orchestrator.data.codec.transcode import Piece
from orchestrator.data.codec.video_probe import Look, VideoFacts, look_of

_LOST = (
    "a copy would lose the aspect or the colours that only its container names: use"
    " encode.mode=h264"
)


def remux(file: IO[bytes], facts: VideoFacts, parts: list[Part]) -> Iterator[Piece | str]:
    """An mp4 of each part; a string is the reason why one cannot be used."""
    same_look: bool | None = None
    for piece in _copied(file, facts, parts):
        if same_look is None and isinstance(piece, Piece):
            same_look = _look(piece.payload) == facts.look
        yield piece if same_look is not False or isinstance(piece, str) else _LOST


def _copied(file: IO[bytes], facts: VideoFacts, parts: list[Part]) -> Iterator[Piece | str]:
    file.seek(0)
    with open_video(file) as (container, stream):
        packets = enumerate(p for p in container.demux(stream) if p.size)
        waiting = [_Copy(stream, facts, part) for part in parts]
        for number, packet in packets:
            for copy in waiting:
                if copy.part.first <= number < copy.part.last:
                    copy.add(packet, number)
            while waiting and waiting[0].part.last <= number + 1:
                yield waiting.pop(0).finish()
        for copy in waiting:
            yield copy.finish()


class _Copy:
    """One mp4 made of packets. Its first frame is shown at 0; decoding times are made from display
    times, since not every container stores them."""

    def __init__(self, stream: Any, facts: VideoFacts, part: Part) -> None:
        self.part, self._facts, self._stream = part, facts, stream
        self._base = Fraction(stream.time_base)
        self._buffer = io.BytesIO()
        self._container: Any = None
        self._damaged = False
        ticks = facts.packets.ticks[part.first : part.last]
        self._kept = _kept(facts, part)
        self._dts = iter((_decoding_ticks(facts, part, self._kept) - part.start).tolist())
        self._tail = bool((ticks[self._kept] >= part.end).any())
        self._hides = self._tail or bool((ticks[self._kept] < part.start).any())

    def add(self, packet: Any, number: int) -> None:
        """Append a packet, if it is needed; `number` counts all packets of the stream."""
        if self.part.fault or not self._kept[number - self.part.first]:
            return
        if self._container is None:
            self._container = av.open(self._buffer, "w", format="mp4")
            self._out = self._container.add_stream_from_template(self._stream, opaque=True)
        self._damaged = self._damaged or packet.is_corrupt
        before = packet.pts, packet.dts, packet.stream
        packet.pts -= self.part.start
        packet.dts = next(self._dts)
        # An mp4 hides a last frame that lasts no time, and readers one that lasts too short.
        interval = round(self.part.interval / self._base)
        if not packet.duration or (number + 1 == self.part.last and packet.duration < interval - 1):
            packet.duration = interval
        packet.stream = self._out
        self._container.mux(packet)
        # Writing has changed its units; the next part may need it too.
        packet.time_base = self._base
        packet.pts, packet.dts, packet.stream = before

    def finish(self) -> Piece | str:
        """The mp4, or why there is none."""
        if self.part.fault:
            return self.part.fault
        if self._damaged:
            return "damaged packets"
        try:
            self._container.close()
        except FFmpegError as error:
            return f"cannot be copied into an mp4: {reason_of(error)}"
        return self._piece()

    def _piece(self) -> Piece | str:
        ticks = self._facts.packets.ticks[self.part.first : self.part.last]
        inside = ticks[self._kept & (ticks < self.part.end)]
        seconds = float((int(inside.max()) - self.part.start) * self._base) + self.part.interval
        payload = self._buffer.getvalue()
        if self._tail:
            payload = set_edit_end(payload, seconds - self.part.interval / 2)
        shown = _count_shown(payload) if self._hides else self.part.frames
        if shown != self.part.frames:
            return f"an mp4 of it shows {shown} of {self.part.frames} frames: use encode.mode=h264"
        width, height = self._facts.upright
        return Piece(
            payload=payload,
            frames=self.part.frames,
            fps=self.part.frames / seconds,
            width=width,
            height=height,
            duration_s=seconds,
            codec=self._facts.codec,
        )


def _kept(facts: VideoFacts, part: Part) -> np.ndarray:
    """bool [packets of the part]: those that are needed. Leading pictures of the first key frame
    belong to the part before it, and none that is shown later refers to them."""
    ticks = facts.packets.ticks[part.first : part.last]
    hidden = facts.packets.hidden[part.first : part.last]
    starts_with_key = ticks[0] == part.start
    return hidden | (ticks >= part.start) if starts_with_key else np.ones(len(ticks), bool)


def _decoding_ticks(facts: VideoFacts, part: Part, kept: np.ndarray) -> Ticks:
    """When each packet that is kept is decoded, int64: rising, and never after it is shown."""
    ticks = facts.packets.ticks
    rising = np.sort(ticks)
    if (np.diff(rising) > 0).all():
        return np.asarray((rising - (rising - ticks).max())[part.first : part.last][kept])
    # Of several edits, each brings hidden packets whose times lie within the edit before it.
    own = ticks[part.first : part.last][kept]
    rising = np.sort(own)
    return np.asarray(rising - (rising - own).max(initial=0))


def _look(payload: bytes) -> Look | None:
    with open_video(io.BytesIO(payload)) as (container, stream):
        return next((look_of(stream, frame) for frame in container.decode(stream)), None)


def _count_shown(payload: bytes) -> int:
    with open_video(io.BytesIO(payload)) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size)
        return sum(not packet.is_discard for packet in packets)
