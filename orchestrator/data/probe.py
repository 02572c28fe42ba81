"""What a video really holds, found by reading it through: frames, times, size, rotation.

Headers are not believed where they can be counted. Nothing but one decoded frame and one
number per frame is kept, so a ten-hour video costs megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from orchestrator.errors import DataError

MAX_PIXELS = 2**26
"""Largest frame that is decoded: 8K passes, 16k x 16k (gigabytes of reference frames) not."""

_LOST_SHARE, _LOST_SECONDS = 0.02, 1.0


@dataclass(frozen=True)
class VideoFacts:
    """One video. `times`: float64 [frames], seconds from the first frame, in display order.

    `width` and `height` are what a decoder gives, `rotation` the degrees counterclockwise
    that turn it upright, `pixel` the width of a pixel over its height. `timed` is false for
    streams without timestamps, whose frames are taken to be even.
    """

    codec: str
    fps: Fraction
    times: np.ndarray
    width: int
    height: int
    rotation: int
    pixel: Fraction
    timed: bool

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def duration_s(self) -> float:
        """Seconds, the last frame's own included."""
        return float(self.frames / self.fps)

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after rotation."""
        return self._turned(self.width, self.height)

    @property
    def upright_square(self) -> tuple[int, int]:
        """Width and height after rotation at which pixels are square: one side shrinks."""
        if self.pixel >= 1:
            return self._turned(self.width, max(1, round(self.height / self.pixel)))
        return self._turned(max(1, round(self.width * self.pixel)), self.height)

    def _turned(self, width: int, height: int) -> tuple[int, int]:
        return (height, width) if self.rotation % 180 else (width, height)


@contextmanager
def open_video(file: IO[bytes]) -> Iterator[tuple[Any, Any]]:
    """A PyAV container and its video stream, decoding with one thread.

    Raises:
        DataError: not a video, no video stream (cover pictures do not count), frames larger
            than `MAX_PIXELS`, or a codec that cannot be decoded.
    """
    try:
        # A playlist that is named like a video must not open other files or addresses.
        container = av.open(
            file, "r", metadata_errors="ignore", options={"protocol_whitelist": "none"}
        )
    except (FFmpegError, ValueError) as error:
        raise DataError(f"not a readable video: {reason_of(error)}") from None
    with container:
        streams = [
            s for s in container.streams.video if not s.disposition & Disposition.attached_pic
        ]
        if not streams:
            audio = " (audio only)" if container.streams.audio else ""
            raise DataError(f"no video stream{audio}")
        stream = max(streams, key=lambda s: (s.codec_context or _NoCodec).width)
        context = stream.codec_context
        if context is None:
            raise DataError("its codec cannot be decoded")
        if context.width * context.height > MAX_PIXELS:
            raise DataError(
                f"frames of {context.width}x{context.height} pixels are too large to decode in"
                f" bounded memory (at most {MAX_PIXELS} pixels)"
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        yield container, stream


def probe(file: IO[bytes]) -> VideoFacts:
    """Read a video through: count its packets, decode its first frame.

    Raises:
        DataError: it is no video, is cut off, has a single frame, or cannot be decoded.
    """
    file.seek(0)
    with open_video(file) as (container, stream):
        ticks: list[int | None] = []
        first: Any = None
        end, cut = 0.0, False
        try:
            for packet in container.demux():
                if packet.time_base and packet.pts is not None:
                    length = packet.duration or 0
                    end = max(end, float((packet.pts + length) * packet.time_base))
                if packet.stream.index != stream.index or not packet.size:
                    continue
                cut = packet.is_corrupt
                ticks.append(packet.pts if packet.pts is not None else packet.dts)
                first = first or _first_frame(packet)
            first = first or _first_frame(None, stream)
        except FFmpegError as error:
            raise DataError(
                f"damaged or truncated after {len(ticks)} frames: {reason_of(error)}"
            ) from None
        if cut:  # by the last packet; one that is damaged on the way costs its segment only
            raise DataError(f"truncated: cut inside frame {len(ticks) - 1}")
        _refuse_cut_off(container, stream, len(ticks), end)
        if len(ticks) < 2:
            raise DataError("one frame is not a video" if ticks else "no frames")
        if first is None:
            raise DataError("no frame can be decoded")
        times, timed = _times(stream, ticks)
        return VideoFacts(
            codec=stream.codec.canonical_name,
            fps=_rate(stream, times),
            times=times,
            width=first.width,
            height=first.height,
            rotation=int(first.rotation) % 360,
            pixel=_pixel(stream.sample_aspect_ratio),
            timed=timed,
        )


def _pixel(ratio: Fraction | None) -> Fraction:
    """Aspect ratio of a pixel; none or an absurd one counts as square."""
    return ratio if ratio and Fraction(1, 4) <= ratio <= 4 else Fraction(1)


def reason_of(error: Exception) -> str:
    """FFmpeg's own words, without numbers and addresses."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0]


class _NoCodec:
    width = 0


def _first_frame(packet: Any, stream: Any = None) -> Any:
    """The first frame that the decoder gives, or None; damage is judged when all is decoded."""
    try:
        frames = packet.decode() if packet is not None else stream.decode(None)
    except FFmpegError:
        return None
    return frames[0] if frames else None


def _refuse_cut_off(container: Any, stream: Any, frames: int, end: float) -> None:
    """Compare what was read with what the header promises."""
    declared = int(stream.frames)
    # Only the mp4 family counts samples; AVI counts time slots.
    if "mp4" in container.format.name and frames < declared - max(2, _LOST_SHARE * declared):
        raise DataError(f"truncated: {frames} of {declared} frames are there")
    if not container.duration:
        return
    start = (container.start_time or 0) / av.time_base
    promised = start + container.duration / av.time_base
    if end < promised - max(_LOST_SECONDS, _LOST_SHARE * promised):
        raise DataError(f"truncated: ends at {end:.1f} s of {promised:.1f} s")


def _times(stream: Any, ticks: list[int | None]) -> tuple[np.ndarray, bool]:
    """Seconds of every frame in display order, and whether they come from timestamps."""
    given = np.sort(np.asarray([tick for tick in ticks if tick is not None], dtype=np.int64))
    if len(given) == len(ticks) and given[-1] > given[0]:
        return (given - given[0]) * float(stream.time_base), True
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if rate <= 0:
        raise DataError("no timestamps and no frame rate")
    return np.arange(len(ticks)) / rate, False


def _rate(stream: Any, times: np.ndarray) -> Fraction:
    """Average frames per second; the header's exact fraction where it agrees with the times."""
    measured = (len(times) - 1) / float(times[-1])
    for declared in (stream.average_rate, stream.guessed_rate):
        # Rounded timestamps of a short video miss the true rate by up to a tick or two.
        slack = 2 * float(stream.time_base) / float(times[-1]) + 1e-4
        if declared and abs(float(declared) / measured - 1) < slack:
            return Fraction(declared).limit_denominator(100_000)
    return Fraction(measured).limit_denominator(1001) or Fraction(1, 1001)
