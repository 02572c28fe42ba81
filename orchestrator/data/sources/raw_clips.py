"""Makes raw clips of one input file: a video is re-encoded or copied, an image becomes one clip."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from typing import IO

import av
from av.error import FFmpegError

from orchestrator.data.codec.container import MAX_PIXELS, ffmpeg_reason, open_container
from orchestrator.data.codec.decode import STILL_IMAGE_DURATION_S
from orchestrator.data.codec.display import image_orientation
from orchestrator.data.codec.remux import remux_segments
from orchestrator.data.codec.segments import (
    count_isolated_frames,
    find_copy_segments,
    find_segments,
)
from orchestrator.data.codec.transcode import EncodedSegment, transcode_segments
from orchestrator.data.codec.video_probe import VideoInfo, probe_video, verify_frame_order
from orchestrator.data.sources.base import CHANGED_WHILE_PACKING, RawClip, Rejected
from orchestrator.data.sources.inputs import (
    MISSING,
    UNREADABLE_PREFIX,
    check_not_lfs_pointer,
    convert_input_errors,
    file_identity,
    open_buffered,
    printable_path,
)
from orchestrator.errors import DataError
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage


def split_into_clips(
    file: IO[bytes], key: str, source: str, encode: TranscodeConfig, extras: dict[str, bytes]
) -> Iterator[RawClip | Rejected]:
    """Split one video into clips `KEY-000`, `KEY-001`, ...; `Rejected` for unusable parts.

    Args:
        file: the video.
        key: prefix of the clips' keys.
        source: where the video comes from, for people.
        extras: sidecar files of every clip.

    Raises:
        DataError: no part of the video can be used.
    """
    try:
        info = verify_frame_order(file, probe_video(file))
        yield from _clips_of_video(file, info, key, source, encode, extras)
    except FFmpegError as error:
        raise DataError(f"cannot be decoded: {ffmpeg_reason(error)}") from None


def _clips_of_video(
    file: IO[bytes],
    info: VideoInfo,
    key: str,
    source: str,
    encode: TranscodeConfig,
    extras: dict[str, bytes],
) -> Iterator[RawClip | Rejected]:
    yield from _rejected_frames(info, source)
    count, segments = _encode_segments(file, info, encode)
    digits = max(3, len(str(count)))
    for index, segment in enumerate(segments):
        if isinstance(segment, str):
            yield Rejected(source, f"segment {index} of {count}: {segment}", 1 / count)
            continue
        if segment.missing_frames:
            reason = f"{segment.missing_frames} frames cannot be decoded, the others are kept"
            yield Rejected(source, f"segment {index} of {count}: {reason}", 0.0)
        yield clip_of_segment(segment, f"{key}-{index:0{digits}d}", source, extras)


def clip_of_segment(
    segment: EncodedSegment, key: str, source: str, extras: dict[str, bytes]
) -> RawClip:
    """The raw clip of an encoded segment."""
    return RawClip(
        key=key,
        payload=segment.payload,
        frames=segment.frames,
        fps=segment.fps,
        width=segment.width,
        height=segment.height,
        duration_s=segment.duration_s,
        source=source,
        extras=extras,
        codec=segment.codec,
    )


def _encode_segments(
    file: IO[bytes], info: VideoInfo, encode: TranscodeConfig
) -> tuple[int, Iterator[EncodedSegment | str]]:
    """The number of segments, and an iterator that encodes them.

    Raises:
        DataError: the video cannot be split or copied.
    """
    if encode.mode == "copy":
        if info.duration_s > encode.max_duration:
            raise DataError(
                f"too long to copy: {info.duration_s:.1f} s, encode.max_duration is"
                f" {encode.max_duration:g} s"
            )
        copy_segments = find_copy_segments(info, encode.segment)
        return len(copy_segments), remux_segments(file, info, copy_segments)
    segments = find_segments(info, encode.segment)
    if not segments:
        raise DataError("its timestamps jump: no two frames follow each other")
    return len(segments), transcode_segments(file, info, encode, segments)


def _rejected_frames(info: VideoInfo, source: str) -> Iterator[Rejected]:
    """Rows for the frames that are in no segment."""
    total = info.frames + info.undecodable_at_start
    if info.undecodable_at_start:
        reason = f"{info.undecodable_at_start} frames before the first one that can be decoded"
        yield Rejected(source, reason, info.undecodable_at_start / total)
    if isolated := count_isolated_frames(info):
        reason = f"{isolated} of {total} are single frames between jumps of the timestamps"
        yield Rejected(source, reason, isolated / total)


EXTENSION_BY_CODEC = {"mjpeg": "jpg", "png": "png", "webp": "webp"}
"""File extensions of images, by codec."""


MAX_IMAGE_BYTES = 2**28
"""Largest image file in bytes: it is read into memory at once."""


def read_image(file: IO[bytes], key: str, source: str) -> RawClip:
    """Read an image as a clip of one frame, its bytes unchanged; decoded once to check it.

    Raises:
        DataError: it is not a jpeg, png or webp, is damaged, too large, or animated.
    """
    payload = file.read(MAX_IMAGE_BYTES + 1)
    if len(payload) > MAX_IMAGE_BYTES:
        raise DataError(f"is larger than {MAX_IMAGE_BYTES} bytes")
    try:
        with open_container(io.BytesIO(payload)) as container:
            if not container.streams.video:
                raise DataError("no picture")
            context = container.streams.video[0].codec_context
            if context.name not in EXTENSION_BY_CODEC:
                raise DataError(f"is {context.name}, not a jpeg, png or webp picture")
            _check_pixel_count(context.width, context.height)
            # Without "explode" FFmpeg fills the missing part of a truncated jpeg with grey.
            context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            context.thread_count = 1
            frames = list(container.decode(video=0))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"damaged, or not a readable picture: {ffmpeg_reason(error)}") from None
    # Phones append a second jpeg to the first (MPO, gain maps); viewers show the first.
    if not frames or (len(frames) > 1 and context.name != "mjpeg"):
        raise DataError(f"{len(frames)} frames are not a picture")
    orientation = image_orientation(payload)
    width, height = map(int, orientation.display_size(frames[0].width, frames[0].height))
    return RawClip(
        key=key,
        payload=payload,
        frames=1,
        fps=0.0,
        width=width,
        height=height,
        duration_s=STILL_IMAGE_DURATION_S,
        source=source,
        codec=context.name,
        extension=EXTENSION_BY_CODEC[context.name],
    )


def _check_pixel_count(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} pixels are too large (at most {MAX_PIXELS} pixels)")


def clip_key_prefix(path: str) -> str:
    """A readable key that is unique to a path: the file name's stem and 8 hex digits of a hash."""
    stem = path.rpartition("/")[2].rpartition(".")[0] or path.rpartition("/")[2]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:64] or "video"
    return f"{readable}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def read_clips(
    storage: Storage,
    path: str,
    identity: str,
    encode: TranscodeConfig,
    extras: dict[str, bytes] | None = None,
    *,
    is_image: bool = False,
) -> Iterator[RawClip | Rejected]:
    """The clips of one file, or the reason why it has none.

    Args:
        path: the file, a video unless `is_image`.
        identity: that of the file when it was listed; it must be the same before and after reading.
        extras: sidecar files of every clip.
    """
    source = printable_path(storage.uri(path))
    if identity == MISSING:
        yield Rejected(source, "no such file")
        return
    if identity.startswith(UNREADABLE_PREFIX):
        yield Rejected(source, f"cannot be read: {identity.removeprefix(UNREADABLE_PREFIX)}")
        return
    if file_identity(storage, path) != identity:
        yield Rejected(source, CHANGED_WHILE_PACKING)
        return
    if identity.startswith("0:"):
        yield Rejected(source, "zero bytes")
        return
    lost = 0.0
    try:
        with convert_input_errors(storage), open_buffered(storage, path) as file:
            check_not_lfs_pointer(file)
            clips: Iterator[RawClip | Rejected] = (
                iter([read_image(file, clip_key_prefix(path), source)])
                if is_image
                else split_into_clips(file, clip_key_prefix(path), source, encode, extras or {})
            )
            for clip in clips:
                lost += clip.share if isinstance(clip, Rejected) else 0
                yield clip
    except DataError as error:
        yield Rejected(source, error.what, max(0.0, 1 - lost))
        lost = 1.0
    if file_identity(storage, path) != identity:
        yield Rejected(source, CHANGED_WHILE_PACKING, max(0.0, 1 - lost))
