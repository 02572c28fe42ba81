"""Types of sources: work units, raw clips, rejected inputs, and the protocols a source follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.job import TranscodeConfig

# fmt: off
VIDEO_EXTENSIONS = frozenset((
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "h264", "h265", "hevc", "ivf",
    "m2ts", "m2v", "m4v", "mkv", "mjpeg", "mjpg", "mov", "mp4", "mpeg", "mpg", "mts", "mxf",
    "ogm", "ogv", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m",
))
# fmt: on
"""Extensions of videos in folders and tars, lower case, without the dot."""

IMAGE_EXTENSIONS = frozenset(("jpeg", "jpg", "png", "webp"))
"""Extensions of images in folders."""

MANIFEST_EXTENSIONS = ("csv", "tsv", "txt")

CHANGED_WHILE_PACKING = "changed while packing"
"""Reason for rejecting an input whose size or modification time differs from when it was listed."""


@dataclass(frozen=True)
class WorkUnit:
    """A fixed list of inputs that is packed and committed together."""

    id: str
    """Safe as part of a file name, unique in its source, in the source's sort order."""

    inputs: tuple[str, ...]
    """What the source needs to find each input, such as a path."""

    identity: str
    """Text that changes when any input does (sizes and modification times)."""


@dataclass(frozen=True)
class RawClip:
    """One clip to be written to a tar: `KEY.mp4`, `KEY.json` and sidecar files."""

    key: str
    payload: bytes
    """An mp4, or an image if `extension` says so."""

    frames: int
    fps: float
    """Average frames per second; 0 for an image."""

    width: int
    """Pixels of the upright frame, as is `height`."""

    height: int
    duration_s: float
    source: str
    """Where it comes from, for people: a path or URI."""

    extras: dict[str, bytes] = field(default_factory=dict)
    """Sidecar files by extension, such as "states.npy". "json" is an object that is merged into
    KEY.json."""

    codec: str = "h264"
    extension: str = "mp4"


@dataclass(frozen=True)
class Rejected:
    """An input, or a part of one, that cannot be used."""

    source: str
    reason: str
    share: float = 1.0
    """Share of one input that is lost; 0: it counts as no failure."""


@runtime_checkable
class Source(Protocol):
    """Raw video that packing turns into tars. Sent to Ray tasks: it must be small to pickle."""

    uri: str

    def units(self) -> list[WorkUnit]:
        """All inputs in fixed lists, which stay the same while no input changes."""

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of a unit, one at a time, in a fixed order. Called in a Ray task."""


@runtime_checkable
class InPlaceSource(Protocol):
    """Tars that are indexed in place; only the index is written."""

    uri: str

    def units(self) -> list[WorkUnit]:
        """All tars in fixed lists, which stay the same while no tar changes."""

    def shards(self, unit: WorkUnit) -> Iterator[IndexedShard | Rejected]:
        """The shards of a unit with their clips, and the members that cannot be used."""


@runtime_checkable
class ReportsSkippedInputs(Protocol):
    """A source that reports files among its inputs that it does not read."""

    def left_out(self) -> list[Rejected]:
        """A row for each file that the last call of `units` skipped.

        Rows with a share above 0 are inputs that cannot be read.
        """


@dataclass(frozen=True)
class PackedSource:
    """A dataset that is already packed."""

    uri: str


AnySource = Source | InPlaceSource | PackedSource
