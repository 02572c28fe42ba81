"""Copies the encoded packets of a video into mp4s, one per segment, without re-encoding."""

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
    file: IO[bytes], info: VideoInfo, segments: list[CopySegment]
) -> Iterator[EncodedSegment | str]:
    """An mp4 of each segment; a string is the reason why a segment cannot be used."""
    same_format: bool | None = None
    for piece in _copy_packets(file, info, segments):
        if same_format is None and isinstance(piece, EncodedSegment):
            same_format = _read_display_format(piece.payload) == info.display_format
        yield piece if same_format is not False or isinstance(piece, str) else _FORMAT_LOST_REASON


def _copy_packets(
    file: IO[bytes], info: VideoInfo, segments: list[CopySegment]
) -> Iterator[EncodedSegment | str]:
    file.seek(0)
    with open_video(file) as (container, stream):
        packets = enumerate(p for p in container.demux(stream) if p.size)
        muxers = [_SegmentMuxer(stream, info, segment) for segment in segments]
        for index, packet in packets:
            for muxer in muxers:
                if muxer.segment.first_packet <= index < muxer.segment.stop_packet:
                    muxer.add(packet, index)
            while muxers and muxers[0].segment.stop_packet <= index + 1:
                yield muxers.pop(0).finish()
        for muxer in muxers:
            yield muxer.finish()


class _SegmentMuxer:
    """Writes one mp4 from packets, with its first frame at time 0.

    Decoding times are computed from display times, since not every container stores them.
    """

    def __init__(self, stream: Any, info: VideoInfo, segment: CopySegment) -> None:
        self.segment, self._info, self._stream = segment, info, stream
        self._base = Fraction(stream.time_base)
        self._buffer = io.BytesIO()
        self._container: Any = None
        self._damaged = False
        ticks = info.packets.pts[segment.first_packet : segment.stop_packet]
        self._needed = _needed_packets(info, segment)
        self._dts = iter((_compute_dts(info, segment, self._needed) - segment.start_tick).tolist())
        self._has_packets_after_end = bool((ticks[self._needed] >= segment.stop_tick).any())
        self._has_hidden_packets = self._has_packets_after_end or bool(
            (ticks[self._needed] < segment.start_tick).any()
        )

    def add(self, packet: Any, index: int) -> None:
        """Append a packet, if it is needed.

        Args:
            index: that of the packet in the stream.
        """
        if self.segment.unusable_reason or not self._needed[index - self.segment.first_packet]:
            return
        if self._container is None:
            self._container = av.open(self._buffer, "w", format="mp4")
            self._out = self._container.add_stream_from_template(self._stream, opaque=True)
        self._damaged = self._damaged or packet.is_corrupt
        original = packet.pts, packet.dts, packet.stream
        packet.pts -= self.segment.start_tick
        packet.dts = next(self._dts)
        # A last frame of no duration is hidden by the mp4, one of too short a duration by readers.
        interval = round(self.segment.frame_interval_s / self._base)
        if not packet.duration or (
            index + 1 == self.segment.stop_packet and packet.duration < interval - 1
        ):
            packet.duration = interval
        packet.stream = self._out
        self._container.mux(packet)
        # Muxing has rescaled the packet; the next segment may need it too.
        packet.time_base = self._base
        packet.pts, packet.dts, packet.stream = original

    def finish(self) -> EncodedSegment | str:
        """The mp4, or the reason why there is none."""
        if self.segment.unusable_reason:
            return self.segment.unusable_reason
        if self._damaged:
            return "damaged packets"
        try:
            self._container.close()
        except FFmpegError as error:
            return f"cannot be copied into an mp4: {ffmpeg_reason(error)}"
        return self._encoded_segment()

    def _encoded_segment(self) -> EncodedSegment | str:
        ticks = self._info.packets.pts[self.segment.first_packet : self.segment.stop_packet]
        inside = ticks[self._needed & (ticks < self.segment.stop_tick)]
        seconds = (
            float((int(inside.max()) - self.segment.start_tick) * self._base)
            + self.segment.frame_interval_s
        )
        payload = self._buffer.getvalue()
        if self._has_packets_after_end:
            payload = set_edit_end(payload, seconds - self.segment.frame_interval_s / 2)
        shown = _count_shown(payload) if self._has_hidden_packets else self.segment.frames
        if shown != self.segment.frames:
            return (
                f"an mp4 of it shows {shown} of {self.segment.frames} frames: use encode.mode=h264"
            )
        width, height = self._info.display_size
        return EncodedSegment(
            payload=payload,
            frames=self.segment.frames,
            fps=self.segment.frames / seconds,
            width=width,
            height=height,
            duration_s=seconds,
            codec=self._info.codec,
        )


def _needed_packets(info: VideoInfo, segment: CopySegment) -> np.ndarray:
    """bool [packets of the segment]: the packets to copy.

    Leading frames of the first key frame belong to the segment before it, and no frame that is
    shown later refers to them.
    """
    ticks = info.packets.pts[segment.first_packet : segment.stop_packet]
    hidden = info.packets.is_discarded[segment.first_packet : segment.stop_packet]
    starts_with_key = ticks[0] == segment.start_tick
    return hidden | (ticks >= segment.start_tick) if starts_with_key else np.ones(len(ticks), bool)


def _compute_dts(info: VideoInfo, segment: CopySegment, needed: np.ndarray) -> Ticks:
    """Decoding timestamps of the copied packets, int64: increasing, and never after display."""
    ticks = info.packets.pts
    increasing = np.sort(ticks)
    if (np.diff(increasing) > 0).all():
        return np.asarray(
            (increasing - (increasing - ticks).max())[segment.first_packet : segment.stop_packet][
                needed
            ]
        )
    # With several edits, each has hidden packets whose times lie within the edit before it.
    segment_ticks = ticks[segment.first_packet : segment.stop_packet][needed]
    increasing = np.sort(segment_ticks)
    return np.asarray(increasing - (increasing - segment_ticks).max(initial=0))


def _read_display_format(payload: bytes) -> DisplayFormat | None:
    with open_video(io.BytesIO(payload)) as (container, stream):
        return next((display_format_of(stream, frame) for frame in container.decode(stream)), None)


def _count_shown(payload: bytes) -> int:
    with open_video(io.BytesIO(payload)) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size)
        return sum(not packet.is_discard for packet in packets)
