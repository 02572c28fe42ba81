"""Clips of a benchmark whose futures are predicted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from orchestrator.evaluation.benchmarks.scenes import Fault


@dataclass(frozen=True)
class Clip:
    """One clip that can be read: a sequence of an array, or a video with what is known of it."""

    name: str
    path: str
    """Below the benchmark's folder."""

    sequence: int | None = None
    annotation: str = ""


@dataclass
class ClipRead:
    """A benchmark's clips, and what cannot be used."""

    scored: list[Clip]
    chosen_on: list[Clip]
    faults: list[Fault] = field(default_factory=list)


@dataclass
class ClipFrames:
    """Some clips' pixels."""

    clips: list[Clip]
    """Those that could be read."""

    frames: np.ndarray
    """uint8 [clips, frames, size, size, 3]."""

    targets: np.ndarray
    """States by frame, float [clips, frames, k], NaN where unknown; k may be 0."""

    faults: list[Fault] = field(default_factory=list)
