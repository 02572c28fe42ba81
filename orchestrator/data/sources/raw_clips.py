"""One video into clips: re-encoded, or its coded stream cut at key frames."""

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
    """Clips `KEY-000`, `KEY-001`, ... of one video, or `Rejected` for a part that cannot be used.

    Raises:
        DataError: nothing of the video can be used.
    """
    try:
        facts = verify_frame_order(file, probe_video(file))
        yield from _clips_of_video(file, facts, key, source, encode, extras)
    except FFmpegError as error:
        raise DataError(f"cannot be decoded: {ffmpeg_reason(error)}") from None


def _clips_of_video(
    file: IO[bytes],
    facts: VideoInfo,
    key: str,
    source: str,
    encode: TranscodeConfig,
    extras: dict[str, bytes],
) -> Iterator[RawClip | Rejected]:
    yield from _rejected_frames(facts, source)
    count, pieces = _encode_segments(file, facts, encode)
    digits = max(3, len(str(count)))
    for number, piece in enumerate(pieces):
        if isinstance(piece, str):
            yield Rejected(source, f"segment {number} of {count}: {piece}", 1 / count)
            continue
        if piece.missing_frames:
            reason = f"{piece.missing_frames} frames cannot be decoded, the others are kept"
            yield Rejected(source, f"segment {number} of {count}: {reason}", 0.0)
        yield RawClip(
            key=f"{key}-{number:0{digits}d}",
            payload=piece.payload,
            frames=piece.frames,
            fps=piece.fps,
            width=piece.width,
            height=piece.height,
            duration_s=piece.duration_s,
            source=source,
            extras=extras,
            codec=piece.codec,
        )


def _encode_segments(
    file: IO[bytes], facts: VideoInfo, encode: TranscodeConfig
) -> tuple[int, Iterator[EncodedSegment | str]]:
    """How many segments there are, and each."""
    if encode.mode == "copy":
        if facts.duration_s > encode.max_duration:
            raise DataError(
                f"too long to copy: {facts.duration_s:.1f} s, encode.max_duration is"
                f" {encode.max_duration:g} s"
            )
        parts = find_copy_segments(facts, encode.segment)
        return len(parts), remux_segments(file, facts, parts)
    segments = find_segments(facts, encode.segment)
    if not segments:
        raise DataError("its timestamps jump: no two frames follow each other")
    return len(segments), transcode_segments(file, facts, encode, segments)


def _rejected_frames(facts: VideoInfo, source: str) -> Iterator[Rejected]:
    """Rows for the frames that are in no segment."""
    whole = facts.frames + facts.undecodable_at_start
    if facts.undecodable_at_start:
        reason = f"{facts.undecodable_at_start} frames before the first one that can be decoded"
        yield Rejected(source, reason, facts.undecodable_at_start / whole)
    if lone := count_isolated_frames(facts):
        reason = f"{lone} of {whole} frames stand alone between jumps of the timestamps"
        yield Rejected(source, reason, lone / whole)


EXTENSION_BY_CODEC = {"mjpeg": "jpg", "png": "png", "webp": "webp"}
"""Of a picture's name, by its codec."""


MAX_IMAGE_BYTES = 2**28
"""Largest file that is read: it is held in memory as a whole."""


def read_image(file: IO[bytes], key: str, source: str) -> RawClip:
    """A picture as a clip of one frame, its bytes as they are; decoded once to see that it is
    whole.

    Raises:
        DataError: it is no jpeg, png or webp, is damaged, too large, or moves.
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
            # Without it FFmpeg fills what is missing of a jpeg with grey.
            context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            context.thread_count = 1
            frames = list(container.decode(video=0))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"damaged, or not a readable picture: {ffmpeg_reason(error)}") from None
    # Phones put a second jpeg behind the first (MPO, gain maps): viewers show the first.
    if not frames or (len(frames) > 1 and context.name != "mjpeg"):
        raise DataError(f"{len(frames)} frames are not a picture")
    still = image_orientation(payload)
    width, height = map(int, still.display_size(frames[0].width, frames[0].height))
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
    """A readable key that is unique to a path: its stem and 8 hex digits of its hash."""
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
    """The clips of one video file, or the one of a picture, or why it has none.

    The file must be, before and after it is read, what it was when it was listed.
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
