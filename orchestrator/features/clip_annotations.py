"""What is known of a clip beside its pixels: its label, its states, what touched what."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.errors import DataError

AMBIGUOUS_SUBJECT = -1
_TIME_TOLERANCE_S = 1e-6
"""Seconds that rounding may put a time before its frame."""


@dataclass(frozen=True)
class ClipAnnotations:
    """Of one clip."""

    label: str | None = None
    """As the manifest gives it, or the family of a simulated scene."""

    states: np.ndarray | None = None
    """float32 [frames, ...] at the clip's frames: of simulated scenes [frames, objects, columns]
    (`physics.simulated_video.STATE_COLUMNS`), of others as they stand in KEY.states.npy."""

    subject: int | None = None
    """Of simulated scenes: the object that moves by itself, which a probe asks about;
    `AMBIGUOUS_SUBJECT` where there is not exactly one, for nobody could say which is meant."""

    contacts: list[dict[str, Any]] = field(default_factory=list)
    """Of simulated scenes: time in seconds from the clip's first frame, a, b, speed."""


def read_annotations(
    metadata_json: bytes | None, states: bytes | None, frames: int, fps: float, times: np.ndarray
) -> ClipAnnotations:
    """The notes of a clip, from what stands beside its segment.

    Args:
        metadata_json: KEY.json. `states`: KEY.states.npy, a row for each of the segment's `frames`.
        times: seconds from the segment's first frame at which the clip's are taken.

    Raises:
        DataError: one of them is damaged, or does not belong to the video.
    """
    facts = _parsed(metadata_json)
    chosen = None
    if states is not None:
        rows = _loaded(states)
        if len(rows) != frames:
            raise DataError(f"states.npy has {len(rows)} rows, the video {frames} frames")
        at = np.minimum(np.floor((times + _TIME_TOLERANCE_S) * fps).astype(int), frames - 1)
        chosen = np.ascontiguousarray(rows[at], np.float32)
    physics, label = facts.get("physics"), facts.get("label")
    if not isinstance(physics, dict):
        return ClipAnnotations(None if label is None else str(label), chosen)
    return ClipAnnotations(
        label=str(physics["family"] if label is None else label),
        states=chosen,
        subject=_subject(physics),
        contacts=_contacts(physics, times),
    )


def _parsed(meta: bytes | None) -> dict[str, Any]:
    if meta is None:
        return {}
    try:
        facts = json.loads(meta)
    except ValueError as error:
        raise DataError(f"its .json cannot be read: {error}") from None
    return facts if isinstance(facts, dict) else {}


def _loaded(states: bytes) -> np.ndarray:
    try:
        rows: np.ndarray = np.load(io.BytesIO(states), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"its states.npy cannot be read: {error}") from None
    if rows.ndim < 2 or not np.issubdtype(rows.dtype, np.number):
        raise DataError(f"its states.npy is {rows.dtype} {list(rows.shape)}, not [frames, ...]")
    return rows


def _subject(physics: dict[str, Any]) -> int:
    roles = [thing["role"] for thing in physics["objects"]]
    return roles.index("mover") if roles.count("mover") == 1 else AMBIGUOUS_SUBJECT


def _contacts(physics: dict[str, Any], times: np.ndarray) -> list[dict[str, Any]]:
    """Those that begin while the clip is shown; the last frame is shown as long as the others."""
    began = physics["start"] + times[0]
    lasts = times[-1] - times[0] + (times[1] - times[0] if len(times) > 1 else 0.0)
    moved = [{**one, "time": one["time"] - began} for one in physics["contacts"]]
    return [one for one in moved if 0 <= one["time"] < lasts]
