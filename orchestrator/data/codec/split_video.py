"""One video into clips: re-encoded, or its coded stream cut at key frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from av.error import FFmpegError

from orchestrator.data.codec.container import reason_of
from orchestrator.data.codec.copy_segments import copy_parts
from orchestrator.data.codec.remux import remux
from orchestrator.data.codec.segments import even_segments, lone_frames
from orchestrator.data.codec.transcode import Piece, transcode
from orchestrator.data.codec.video_probe import VideoFacts, confirm_order, probe
from orchestrator.data.sources.base import RawClip, Rejected
from orchestrator.errors import DataError
from orchestrator.job import Encode


def cut_video(
    file: IO[bytes], key: str, source: str, encode: Encode, extras: dict[str, bytes]
) -> Iterator[RawClip | Rejected]:
    """Clips `KEY-000`, `KEY-001`, ... of one video, or `Rejected` for a part that cannot be used.

    Raises:
        DataError: nothing of the video can be used.
    """
    try:
        facts = confirm_order(file, probe(file))
        yield from _clips(file, facts, key, source, encode, extras)
    except FFmpegError as error:
        raise DataError(f"cannot be decoded: {reason_of(error)}") from None


def _clips(
    file: IO[bytes],
    facts: VideoFacts,
    key: str,
    source: str,
    encode: Encode,
    extras: dict[str, bytes],
) -> Iterator[RawClip | Rejected]:
    yield from _left_out(facts, source)
    count, pieces = _pieces(file, facts, encode)
    digits = max(3, len(str(count)))
    for number, piece in enumerate(pieces):
        if isinstance(piece, str):
            yield Rejected(source, f"segment {number} of {count}: {piece}", 1 / count)
            continue
        if piece.lost:
            reason = f"{piece.lost} frames cannot be decoded, the others are kept"
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


def _pieces(
    file: IO[bytes], facts: VideoFacts, encode: Encode
) -> tuple[int, Iterator[Piece | str]]:
    """How many segments there are, and each."""
    if encode.mode == "copy":
        if facts.duration_s > encode.max_duration:
            raise DataError(
                f"too long to copy: {facts.duration_s:.1f} s, encode.max_duration is"
                f" {encode.max_duration:g} s"
            )
        parts = copy_parts(facts, encode.segment)
        return len(parts), remux(file, facts, parts)
    segments = even_segments(facts, encode.segment)
    if not segments:
        raise DataError("its timestamps jump: no two frames follow each other")
    return len(segments), transcode(file, facts, encode, segments)


def _left_out(facts: VideoFacts, source: str) -> Iterator[Rejected]:
    """Rows for the frames that are in no segment."""
    whole = facts.frames + facts.skipped
    if facts.skipped:
        reason = f"{facts.skipped} frames before the first one that can be decoded"
        yield Rejected(source, reason, facts.skipped / whole)
    if lone := lone_frames(facts):
        reason = f"{lone} of {whole} frames stand alone between jumps of the timestamps"
        yield Rejected(source, reason, lone / whole)
