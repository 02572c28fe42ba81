"""Opens video files with FFmpeg, selects their video stream, and decodes its frames."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from orchestrator.data.codec.packet_table import MAX_PACKETS_BEFORE_JOIN
from orchestrator.errors import DataError

MAX_PIXELS = 2**26
"""Largest frame that is decoded, in pixels: 8K passes; 16k x 16k, whose reference frames take
gigabytes, does not."""


_CODEC_FLAG_UNALIGNED = 1
"""FFmpeg's AV_CODEC_FLAG_UNALIGNED: without it cropped left columns are shown."""


_DEFAULT_STREAM_BONUS = 5_000_000
"""Pixels added to the size of the stream marked as default, as FFmpeg's command line does."""


@contextmanager
def open_video(file: IO[bytes]) -> Iterator[tuple[Any, Any]]:
    """Open a video: a PyAV container and its video stream, which decodes with one thread.

    Raises:
        DataError: not a video, no video stream (cover images do not count), frames larger than
            `MAX_PIXELS`, or a codec that cannot be decoded.
    """
    try:
        container = open_container(file)
    except (FFmpegError, ValueError) as error:
        raise DataError(f"not a readable video: {ffmpeg_reason(error)}") from None
    with container:
        stream = select_video_stream(container)
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise DataError(
                f"frames of {context.width}x{context.height} pixels are too large to decode in"
                f" bounded memory (at most {MAX_PIXELS} pixels)"
            )
        if 0 < min(context.width, context.height) < 2:
            raise DataError(f"frames of {context.width}x{context.height} pixels are too small")
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        yield container, stream


def open_container(file: IO[bytes]) -> Any:
    """Open a PyAV container for reading.

    Metadata in any text encoding is accepted. A playlist with a video's name cannot open other
    files or addresses.
    """
    seekable = file if isinstance(file, io.BytesIO) else _SeekClampedFile(file)
    return av.open(seekable, "r", metadata_errors="ignore", options={"protocol_whitelist": "none"})


class _SeekClampedFile:
    """A file in which a seek past the end goes to the end.

    Damaged headers seek past the end, which must not be taken for a failing storage.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.read, self.tell = file, file.read, file.tell
        start = file.tell()
        self._size = file.seek(0, io.SEEK_END)
        file.seek(start)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            offset = min(max(offset, 0), self._size)
        return self._file.seek(offset, whence)


def select_video_stream(container: Any) -> Any:
    """The video stream that players show: the largest, or the one marked as default.

    Raises:
        DataError: there is none, or its codec cannot be decoded.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        audio = " (audio only)" if container.streams.audio else ""
        raise DataError(f"no video stream{audio}")
    stream = max(streams, key=_stream_score)
    if stream.codec_context is None:
        raise DataError("its codec cannot be decoded")
    stream.codec_context.flags |= _CODEC_FLAG_UNALIGNED
    return stream


def ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's message, without error numbers and addresses."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0]


def _stream_score(stream: Any) -> int:
    context = stream.codec_context
    if context is None:
        return -1
    area = int(context.width * context.height)
    return area + _DEFAULT_STREAM_BONUS * bool(stream.disposition & Disposition.default)


def decode_frames(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """Decode a stream: (frame, whether it is damaged), in display order.

    After a decoding error all frames count as damaged until the next key frame.
    """
    damaged = False
    for packet, last in _mark_near_keyframe(container.demux(stream)):
        damaged = damaged or (packet.is_corrupt and not last)
        try:
            frames = packet.decode()
        except FFmpegError:
            damaged, frames = True, []
        for frame in frames:
            if frame.is_corrupt:
                damaged = True
            elif frame.key_frame and (last or not packet.is_corrupt):
                damaged = False
            yield frame, damaged


def _mark_near_keyframe(packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """(packet, whether one of the next few is a key frame) for each packet.

    Where transport streams are joined, their counters restart, so one of the last packets before
    the joint is marked corrupt. If the decoder reports no error there, the frame is good.
    """
    window: deque[Any] = deque()
    for packet in chain(packets, [None] * MAX_PACKETS_BEFORE_JOIN):
        window.append(packet)
        if len(window) > MAX_PACKETS_BEFORE_JOIN:
            first = window.popleft()
            yield first, any(p is not None and p.size and p.is_keyframe for p in window)
