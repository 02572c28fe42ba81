"""Clips of a benchmark whose futures are predicted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from orchestrator.evaluation.benchmarks.scenes import ExcludedItem


@dataclass(frozen=True)
class BenchmarkClip:
    """One clip that can be read: a sequence of an array, or a video with what is known of it."""

    name: str
    path: str
    """Below the benchmark's folder."""

    sequence: int | None = None
    annotation: str = ""


@dataclass
class ClipListing:
    """A benchmark's clips, and what cannot be used."""

    scored: list[BenchmarkClip]
    selection: list[BenchmarkClip]
    excluded: list[ExcludedItem] = field(default_factory=list)


@dataclass
class DecodedClips:
    """Some clips' pixels."""

    clips: list[BenchmarkClip]
    """Those that could be read."""

    frames: np.ndarray
    """uint8 [clips, frames, size, size, 3]."""

    targets: np.ndarray
    """States by frame, float [clips, frames, k], NaN where unknown; k may be 0."""

    excluded: list[ExcludedItem] = field(default_factory=list)
