"""What a probe is asked for, row by row: a clip's class, or an object's state in a tubelet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.errors import RequestError
from orchestrator.features import Features
from orchestrator.features.clip_annotations import AMBIGUOUS_SUBJECT
from orchestrator.physics.simulated_video import STATE_COLUMNS

STATE_NAMES = ("x", "y", "vx", "vy")
CONTACT = "contact"
MIN_VISIBLE_SHARE = 0.5
"""Share of an object that must be visible in every frame of a tubelet for its row to count."""


@dataclass(frozen=True)
class ProbeTargets:
    """What is to be read, and of which rows."""

    names: tuple[str, ...]
    values: np.ndarray
    """`label`: int64 [rows, 1], the number of the class. `states`: float64 [rows, names]."""

    clip_index: np.ndarray
    """int64 [rows]: which of the features' clips a row is of."""

    tubelet_index: np.ndarray
    """int64 [rows]; -1 where a row is a whole clip."""

    video_index: np.ndarray
    """int64 [rows], into `videos`."""

    videos: tuple[str, ...]
    strata: tuple[str, ...]
    """Of each video: the splits have an equal share of each stratum."""

    classes: tuple[str, ...] = ()
    num_excluded_clips: int = 0
    """Clips that have no label; no states, or several things that move by themselves."""

    def is_binary(self, number: int) -> bool:
        """Whether a target is yes or no."""
        return self.names[number] == CONTACT


def load_targets(
    features: Features, target: str, classes: Sequence[str] | None = None
) -> ProbeTargets:
    """What `target` is of each clip of the features.

    Args:
        classes: of the features that the probe was fitted to; a label that is none of them has
            the number -1, and is read wrong.

    Raises:
        RequestError: the features have no such target.
    """
    if target == "label":
        return _labels(features, classes)
    if features.pooling == "mean":
        raise RequestError(
            "states change within a clip, and these features are means over it",
            where=features.folder.root,
            hint="embed with pooling: tokens (or frames) for probe.target: states",
        )
    return _states(features)


def _labels(features: Features, classes: Sequence[str] | None) -> ProbeTargets:
    rows = features.table(["key", "video", "label"]).to_pylist()
    known = [i for i, row in enumerate(rows) if row["label"] is not None]
    if not known:
        raise RequestError(
            "these features have no labels",
            where=features.folder.root,
            hint="embed a manifest with 'path label' lines, or simulated scenes",
        )
    labels = [rows[i]["label"] for i in known]
    names = tuple(sorted(set(labels))) if classes is None else tuple(classes)
    numbers = {name: number for number, name in enumerate(names)}
    video, videos, strata = _videos([rows[i] for i in known])
    return ProbeTargets(
        names=("label",),
        values=np.array([[numbers.get(label, -1)] for label in labels]),
        clip_index=np.array(known),
        tubelet_index=np.full(len(known), -1),
        video_index=video,
        videos=videos,
        strata=strata,
        classes=names,
        num_excluded_clips=len(rows) - len(known),
    )


def _states(features: Features) -> ProbeTargets:
    columns = ["key", "video", "label", "states", "states_shape", "subject", "contacts"]
    rows = features.table(columns).to_pylist()
    tubelets = features.grid[0]
    seconds = features.identity["frames"] / features.identity["fps"] / tubelets
    found = [
        (i, *_of_clip(row, tubelets, seconds))
        for i, row in enumerate(rows)
        if row["states"] and row["subject"] != AMBIGUOUS_SUBJECT
    ]
    widths = Counter(len(names) for _, names, _, _ in found)
    if not found:
        raise RequestError(
            "these features have no states, or none of scenes in which one thing moves by itself",
            where=features.folder.root,
            hint="embed simulated scenes, or tars with KEY.states.npy",
        )
    if len(widths) > 1:
        raise RequestError(
            f"its clips have states of {len(widths)} kinds: {sorted(widths)} numbers a frame",
            where=features.folder.root,
            hint="embed sources whose states mean the same",
        )
    clip = np.concatenate([np.full(len(known), i) for i, _, _, known in found])
    video, videos, strata = _videos([rows[i] for i in clip.tolist()])
    return ProbeTargets(
        names=found[0][1],
        values=np.concatenate([values[known] for _, _, values, known in found]),
        clip_index=clip,
        tubelet_index=np.concatenate([known for _, _, _, known in found]),
        video_index=video,
        videos=videos,
        strata=strata,
        num_excluded_clips=len(rows) - len(found),
    )


def _of_clip(
    row: dict[str, Any], tubelets: int, seconds: float
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names, values [tubelets, names] and the tubelets that count, of one clip."""
    states = np.array(row["states"], np.float64).reshape(row["states_shape"])
    # A tubelet's state is the mean over its frames.
    by_tubelet = states.reshape(tubelets, len(states) // tubelets, *states.shape[1:])
    if row["subject"] is None:
        values = by_tubelet.mean(1).reshape(tubelets, -1)
        names = tuple(f"state {i}" for i in range(values.shape[1]))
        return names, values, np.flatnonzero(np.isfinite(values).all(1))
    one = by_tubelet[:, :, row["subject"]]
    values = one.mean(1)[:, [STATE_COLUMNS.index(name) for name in STATE_NAMES]]
    touched = np.zeros((tubelets, 1))
    for contact in row["contacts"]:
        if f"thing {row['subject']}" in (contact["a"], contact["b"]):
            touched[min(int(contact["time"] / seconds), tubelets - 1)] = 1
    seen = (one[:, :, STATE_COLUMNS.index("visible")] >= MIN_VISIBLE_SHARE).all(1)
    known = np.flatnonzero(seen & np.isfinite(values).all(1))
    return (*STATE_NAMES, CONTACT), np.hstack([values, touched]), known


def _videos(rows: list[dict[str, Any]]) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Rows by video, the videos (by the key of their first clip, which no folder's name is part
    of), and the label of each."""
    first: dict[str, tuple[int, str, str]] = {}
    numbers = []
    for row in rows:
        number, _, _ = first.setdefault(row["video"], (len(first), row["key"], row["label"] or ""))
        numbers.append(number)
    videos = tuple(f"{key} of {video}" for video, (_, key, _) in first.items())
    return np.array(numbers, np.int64), videos, tuple(label for _, _, label in first.values())
