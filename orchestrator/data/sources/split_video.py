"""One video into clips: re-encoded, or its coded stream cut at key frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from av.error import FFmpegError

from orchestrator.data.codec.container import ffmpeg_reason
from orchestrator.data.codec.copy_segments import find_copy_segments
from orchestrator.data.codec.remux import remux_segments
from orchestrator.data.codec.segments import count_isolated_frames, find_segments
from orchestrator.data.codec.transcode import EncodedSegment, transcode_segments
from orchestrator.data.codec.video_probe import VideoInfo, probe_video, verify_frame_order
from orchestrator.data.sources.base import RawClip, Rejected
from orchestrator.errors import DataError
from orchestrator.job import TranscodeConfig


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
