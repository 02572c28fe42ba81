"""One clip on its way through a data loader: encoded row, decoded result, actions and states."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.data.store.sidecar_arrays import ARRAY_FILES, Floats, combine_hashes
from orchestrator.jepa.masks import Ids

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class EncodedClip:
    """One row of the order with its encoded video."""

    position: int
    payload: Any
    """Bytes of the encoded video; None for padding, and where they could not be read."""

    duration_s: float = 0.0
    sha256: str = ""
    """Hash of the payload as the index has it, combined with those of its arrays if it has any."""

    reason: str | None = None
    """Why the payload could not be read."""

    video_frames: int = 0
    """Frames of the video; set only where the job reads arrays, as is `video_fps`."""

    video_fps: float = 0.0

    arrays: Mapping[str, bytes | None] = field(default_factory=dict)
    """Sidecar arrays by file name, in the order in which they are hashed; None: no such file."""

    spec_index: int = 0
    """Which config of a `MultiSpecDecodeConfig` decodes it."""

    def content_hash(self) -> str:
        """sha256 of the payload, combined with those of the arrays; '' without a payload."""
        if self.payload is None:
            return ""
        payload = hashlib.sha256(self.payload).hexdigest()
        if not self.arrays:
            return payload
        bodies = self.arrays.values()
        return combine_hashes(
            payload, [hashlib.sha256(b).hexdigest() if b is not None else "" for b in bodies]
        )


@dataclass(frozen=True)
class ClipActions:
    """Actions and states of a clip; float32, in the data's own units."""

    actions: Floats
    """[T - 1, D]."""

    states: Floats
    """[T, S]."""


@dataclass(frozen=True)
class DecodedClip:
    """The result of decoding a row, without its pixels: those are in the `PixelBuffer`."""

    masks: list[tuple[Ids, Ids]]
    """Context and target ids of each mask kind."""

    reason: str | None
    """Why the clip cannot be used; its pixels are then black."""

    sha256: str
    """`EncodedClip.content_hash` of the row that was decoded."""

    actions: ClipActions | None = None
    """Zeros for a clip that cannot be used; None: the job reads no actions."""


def rows_to_encoded_clips(rows: pa.Table) -> list[EncodedClip]:
    """The rows of a table that `clip_reader.ClipReader` has read."""
    columns = {name: rows[name].to_pylist() for name in rows.column_names if name != "payload"}
    # `as_buffer` does not copy: the bytes stay in Ray's object store until they are decoded.
    payloads = [value.as_buffer() for value in rows["payload"]]
    names = ("position", "duration_s", "sha256", "reason")
    clips = [
        EncodedClip(position, payload, duration_s, sha256, reason)
        for payload, position, duration_s, sha256, reason in zip(
            payloads, *(columns[name] for name in names), strict=True
        )
    ]
    arrays = [name for name in columns if name in ARRAY_FILES]
    if not arrays:
        return clips
    return [
        replace(
            clip,
            video_frames=columns["frames"][i] or 0,
            video_fps=columns["fps"][i] or 0.0,
            arrays={name: columns[name][i] for name in arrays},
        )
        for i, clip in enumerate(clips)
    ]
