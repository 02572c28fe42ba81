"""One video into clips: re-encoded, or its coded stream cut at key frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import IO

from orchestrator.data.probe import probe
from orchestrator.data.remux import remux
from orchestrator.data.sources import RawClip, Rejected
from orchestrator.data.transcode import transcode
from orchestrator.errors import DataError
from orchestrator.job import Encode


def cut_video(
    file: IO[bytes], key: str, source: str, encode: Encode, extras: dict[str, bytes]
) -> Iterator[RawClip | Rejected]:
    """Clips `KEY-000`, `KEY-001`, ... of one video, or `Rejected` for a damaged part.

    Raises:
        DataError: nothing of the video can be used.
    """
    facts = probe(file)
    longest = max(1, math.floor(encode.segment * facts.fps + 1e-6))
    segments = math.ceil(facts.frames / longest)
    digits = max(3, len(str(segments)))
    if encode.mode == "copy":
        if facts.duration_s > encode.max_duration:
            raise DataError(
                f"too long to copy: {facts.duration_s:.1f} s, encode.max_duration is"
                f" {encode.max_duration:g} s"
            )
        pieces = remux(file, facts, encode)
    else:
        pieces = transcode(file, facts, encode, segments)
    for number, piece in enumerate(pieces):
        if isinstance(piece, str):
            yield Rejected(source, f"segment {number} of {segments}: {piece}", 1 / segments)
            continue
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
