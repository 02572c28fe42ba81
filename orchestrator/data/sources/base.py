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
"""Names that are taken for videos in folders and tars, lower case, without the dot."""

IMAGE_EXTENSIONS = frozenset(("jpeg", "jpg", "png", "webp"))
"""Names that are taken for pictures in folders."""

MANIFEST_EXTENSIONS = ("csv", "tsv", "txt")

CHANGED_WHILE_PACKING = "changed while packing"
"""Reason of an input that is not, when it is read, what it was when the job listed it."""


@dataclass(frozen=True)
class WorkUnit:
    """A fixed list of inputs that is packed and committed as a whole.

    `id`: safe as part of a file name, unique in its source, sorted as the source is.
    `inputs`: what the source needs to find each input. `identity`: changes when any input
    does (sizes and modification times).
    """

    id: str
    inputs: tuple[str, ...]
    identity: str


@dataclass(frozen=True)
class RawClip:
    """One clip on its way into a tar: `KEY.mp4`, `KEY.json` and whatever stands beside it.

    `payload`: an mp4, or a picture, which has another `extension`. `frames`, `fps` (average),
    `duration_s`, `width` and `height` (upright) describe it. `extras`: extension to bytes, e.g.
    "states.npy"; a "json" among them is an object that is merged into KEY.json.
    """

    key: str
    payload: bytes
    frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    source: str
    extras: dict[str, bytes] = field(default_factory=dict)
    codec: str = "h264"
    extension: str = "mp4"


@dataclass(frozen=True)
class Rejected:
    """An input, or a part of it, that cannot be used. `share`: how much of one input is lost."""

    source: str
    reason: str
    share: float = 1.0


@runtime_checkable
class Source(Protocol):
    """Raw video that packing turns into tars. Travels to Ray tasks, so it is small to pickle."""

    uri: str

    def units(self) -> list[WorkUnit]:
        """Every input, in fixed lists; the same lists each time while nothing changes."""

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of a unit, one at a time, in a fixed order. Runs inside a Ray task."""


@runtime_checkable
class InPlaceSource(Protocol):
    """Tars that are indexed where they lie; nothing is written but the index."""

    uri: str

    def units(self) -> list[WorkUnit]:
        """Every tar, in fixed lists."""

    def shards(self, unit: WorkUnit) -> Iterator[IndexedShard | Rejected]:
        """The shards of a unit with their clips, and what cannot be used in them."""


@runtime_checkable
class ReportsSkippedInputs(Protocol):
    """A source that knows what stands beside its inputs and is not read."""

    def left_out(self) -> list[Rejected]:
        """A row for each file that the last `units` found and left out; rows with a share are
        inputs that cannot be read."""


@dataclass(frozen=True)
class PackedSource:
    """A dataset that was packed before: there is nothing to do."""

    uri: str


AnySource = Source | InPlaceSource | PackedSource
