"""Copying the coded pictures of a video into mp4s without touching them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import ffmpeg_reason, open_video
from orchestrator.data.codec.display import DisplayFormat, display_format_of
from orchestrator.data.codec.mp4 import set_edit_end
from orchestrator.data.codec.segments import CopySegment
from orchestrator.data.codec.timeline import Ticks
from orchestrator.data.codec.transcode import EncodedSegment
from orchestrator.data.codec.video_probe import VideoInfo

_FORMAT_LOST_REASON = (
    "a copy would lose the aspect or the colours that only its container names: use"
    " encode.mode=h264"
)


def remux_segments(
    file: IO[bytes], facts: VideoInfo, parts: list[CopySegment]
) -> Iterator[EncodedSegment | str]:
    """An mp4 of each part; a string is the reason why one cannot be used."""
    same_look: bool | None = None
    for piece in _copy_packets(file, facts, parts):
        if same_look is None and isinstance(piece, EncodedSegment):
            same_look = _read_display_format(piece.payload) == facts.display_format
        yield piece if same_look is not False or isinstance(piece, str) else _FORMAT_LOST_REASON


def _copy_packets(
    file: IO[bytes], facts: VideoInfo, parts: list[CopySegment]
) -> Iterator[EncodedSegment | str]:
    file.seek(0)
    with open_video(file) as (container, stream):
        packets = enumerate(p for p in container.demux(stream) if p.size)
        waiting = [_SegmentMuxer(stream, facts, part) for part in parts]
        for number, packet in packets:
            for copy in waiting:
                if copy.part.first_packet <= number < copy.part.stop_packet:
                    copy.add(packet, number)
            while waiting and waiting[0].part.stop_packet <= number + 1:
                yield waiting.pop(0).finish()
        for copy in waiting:
            yield copy.finish()


class _SegmentMuxer:
    """One mp4 made of packets. Its first frame is shown at 0; decoding times are made from display
    times, since not every container stores them."""

    def __init__(self, stream: Any, facts: VideoInfo, part: CopySegment) -> None:
        self.part, self._facts, self._stream = part, facts, stream
        self._base = Fraction(stream.time_base)
        self._buffer = io.BytesIO()
        self._container: Any = None
        self._damaged = False
        ticks = facts.packets.pts[part.first_packet : part.stop_packet]
        self._needed = _needed_packets(facts, part)
        self._dts = iter((_compute_dts(facts, part, self._needed) - part.start_tick).tolist())
        self._has_packets_after_end = bool((ticks[self._needed] >= part.stop_tick).any())
        self._has_hidden_packets = self._has_packets_after_end or bool(
            (ticks[self._needed] < part.start_tick).any()
        )

    def add(self, packet: Any, number: int) -> None:
        """Append a packet, if it is needed; `number` counts all packets of the stream."""
        if self.part.unusable_reason or not self._needed[number - self.part.first_packet]:
            return
        if self._container is None:
            self._container = av.open(self._buffer, "w", format="mp4")
            self._out = self._container.add_stream_from_template(self._stream, opaque=True)
        self._damaged = self._damaged or packet.is_corrupt
        before = packet.pts, packet.dts, packet.stream
        packet.pts -= self.part.start_tick
        packet.dts = next(self._dts)
        # An mp4 hides a last frame that lasts no time, and readers one that lasts too short.
        interval = round(self.part.frame_interval_s / self._base)
        if not packet.duration or (
            number + 1 == self.part.stop_packet and packet.duration < interval - 1
        ):
            packet.duration = interval
        packet.stream = self._out
        self._container.mux(packet)
        # Writing has changed its units; the next part may need it too.
        packet.time_base = self._base
        packet.pts, packet.dts, packet.stream = before

    def finish(self) -> EncodedSegment | str:
        """The mp4, or why there is none."""
        if self.part.unusable_reason:
            return self.part.unusable_reason
        if self._damaged:
            return "damaged packets"
        try:
            self._container.close()
        except FFmpegError as error:
            return f"cannot be copied into an mp4: {ffmpeg_reason(error)}"
        return self._encoded_segment()

    def _encoded_segment(self) -> EncodedSegment | str:
        ticks = self._facts.packets.pts[self.part.first_packet : self.part.stop_packet]
        inside = ticks[self._needed & (ticks < self.part.stop_tick)]
        seconds = (
            float((int(inside.max()) - self.part.start_tick) * self._base)
            + self.part.frame_interval_s
        )
        payload = self._buffer.getvalue()
        if self._has_packets_after_end:
            payload = set_edit_end(payload, seconds - self.part.frame_interval_s / 2)
        shown = _count_shown(payload) if self._has_hidden_packets else self.part.frames
        if shown != self.part.frames:
            return f"an mp4 of it shows {shown} of {self.part.frames} frames: use encode.mode=h264"
        width, height = self._facts.display_size
        return EncodedSegment(
            payload=payload,
            frames=self.part.frames,
            fps=self.part.frames / seconds,
            width=width,
            height=height,
            duration_s=seconds,
            codec=self._facts.codec,
        )


def _needed_packets(facts: VideoInfo, part: CopySegment) -> np.ndarray:
    """bool [packets of the part]: those that are needed. Leading pictures of the first key frame
    belong to the part before it, and none that is shown later refers to them."""
    ticks = facts.packets.pts[part.first_packet : part.stop_packet]
    hidden = facts.packets.is_discarded[part.first_packet : part.stop_packet]
    starts_with_key = ticks[0] == part.start_tick
    return hidden | (ticks >= part.start_tick) if starts_with_key else np.ones(len(ticks), bool)


def _compute_dts(facts: VideoInfo, part: CopySegment, kept: np.ndarray) -> Ticks:
    """When each packet that is kept is decoded, int64: rising, and never after it is shown."""
    ticks = facts.packets.pts
    rising = np.sort(ticks)
    if (np.diff(rising) > 0).all():
        return np.asarray(
            (rising - (rising - ticks).max())[part.first_packet : part.stop_packet][kept]
        )
    # Of several edits, each brings hidden packets whose times lie within the edit before it.
    own = ticks[part.first_packet : part.stop_packet][kept]
    rising = np.sort(own)
    return np.asarray(rising - (rising - own).max(initial=0))


def _read_display_format(payload: bytes) -> DisplayFormat | None:
    with open_video(io.BytesIO(payload)) as (container, stream):
        return next((display_format_of(stream, frame) for frame in container.decode(stream)), None)


def _count_shown(payload: bytes) -> int:
    with open_video(io.BytesIO(payload)) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size)
        return sum(not packet.is_discard for packet in packets)
