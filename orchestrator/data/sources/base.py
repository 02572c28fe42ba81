"""Where video comes from: the protocol of a source, and which one a URI names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable
from urllib.parse import parse_qsl

from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig, component_config, import_component
from orchestrator.job.config.base import CustomComponent
from orchestrator.storage import Storage

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

_IMPORT_PATH_URI = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\?.*)?$")


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


def open_source(uri: str, unit_size: int = 32) -> AnySource:
    """The source behind a URI; `unit_size` is the number of inputs per work unit.

    A folder of videos or of pictures (searched recursively), a V-JEPA manifest (.csv, .tsv,
    .txt), a tar or a folder or `{000..123}` pattern of tars, a packed dataset, a LeRobot v3
    folder (or `lerobot://PATH?camera=KEY`), `physics://...`, `world://...`, or
    `package.module:Name?key=value` for a class of one's own.

    Raises:
        RequestError: nothing is there, it cannot be read, or it is none of these.
    """
    from orchestrator.data.sources import folder, listing, manifest, tars
    from orchestrator.data.sources.lerobot import info as lerobot_info
    from orchestrator.data.sources.lerobot import source as lerobot

    if uri.startswith("physics://"):
        return cast(Source, import_component("orchestrator.physics.source:PhysicsSource")(uri))
    if uri.startswith("world://"):
        return cast(
            Source, import_component("orchestrator.environments.source:EnvironmentSource")(uri)
        )
    if uri.startswith(lerobot.SCHEME):
        return lerobot.LeRobotSource(uri, unit_size)
    if _IMPORT_PATH_URI.match(uri):
        return _open_custom(uri)
    uri = Storage(uri).root
    compressed = listing.COMPRESSED_TAR.search(uri)
    pattern, here = "{" in uri and ".tar" in uri, Storage(uri)
    if compressed and (pattern or _file_or_folder(here) == "file"):
        raise RequestError(f"is {listing.COMPRESSED_TAR_REASON}", where=uri)
    if pattern:
        return tars.TarSource(uri)
    kind, name = _file_or_folder(here), uri.rpartition("/")[2]
    extension = name.rpartition(".")[2].lower()
    if kind == "file":
        if extension == "tar":
            return tars.TarSource(uri)
        if extension in MANIFEST_EXTENSIONS:
            return manifest.ManifestSource(uri, unit_size)
        if extension in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
            pictures = extension in IMAGE_EXTENSIONS
            return folder.FolderSource(uri, unit_size, is_single_file=True, images=pictures)
        raise RequestError(
            f"a file ending in '.{extension}' is not a source",
            where=uri,
            hint="name a folder of videos or pictures, a manifest (.csv, .tsv, .txt), a video, a"
            " picture or a .tar",
        )
    try:
        if here.exists("index.parquet") or here.exists("shards.parquet"):
            return PackedSource(uri)
        if lerobot_info.is_lerobot(here):
            return lerobot.LeRobotSource(uri, unit_size)
    except OSError as error:
        mend = "check the path and its rights"
        raise RequestError(f"cannot be read: {error}", where=uri, hint=mend) from None
    return _open_folder(here, unit_size)


def _open_folder(here: Storage, unit: int) -> Source | InPlaceSource:
    from orchestrator.data.sources import folder, listing, tars
    from orchestrator.data.sources.inputs import printable_path
    from orchestrator.data.sources.lerobot import info as lerobot_info

    found = listing.list_folder(here)
    for entry in found.files:
        robot = here.subfolder(entry.path.removesuffix(lerobot_info.INFO_FILE))
        if entry.path.endswith(f"/{lerobot_info.INFO_FILE}") and lerobot_info.is_lerobot(robot):
            raise RequestError(
                "is a LeRobot folder inside of the source, whose episodes need its tables",
                where=robot.root,
                hint="name each LeRobot folder as a source of its own",
            )
    videos, its_tars = found.with_extensions(VIDEO_EXTENSIONS), found.tars()
    if len(its_tars) > len(videos):
        return tars.TarSource(here.root)
    if videos:
        return folder.FolderSource(here.root, unit)
    if found.with_extensions(IMAGE_EXTENSIONS):
        return folder.FolderSource(here.root, unit, images=True)
    names = [entry.path for entry in found.files]
    compressed = [name for name in names if listing.COMPRESSED_TAR.search(name)]
    what, mend = (
        "the folder is empty",
        (
            "name a folder with videos in it (mp4, mkv, avi, webm, mov, ...), with pictures (jpg,"
            " png, webp) or with .tar files"
        ),
    )
    if names:
        what = f"no video among {len(names)} files"
    if found.unreadable:
        path, reason = found.unreadable[0]
        what += f"; {len(found.unreadable)} cannot be read, {printable_path(path)}: {reason}"
    if compressed:
        mend = f"{printable_path(compressed[0])} is {listing.COMPRESSED_TAR_REASON}"
    raise RequestError(what, where=here.root, hint=mend)


def _file_or_folder(storage: Storage) -> str:
    """'file' or 'folder'.

    Raises:
        RequestError: neither, or it cannot be reached.
    """
    try:
        if storage.is_dir():
            return "folder"
        if storage.exists():
            return "file"
    except (OSError, ValueError) as error:
        raise RequestError(
            f"cannot be reached: {error}",
            where=storage.root,
            hint="check the path and its credentials",
        ) from None
    raise RequestError(
        "nothing is there",
        where=storage.root,
        hint="name a folder of videos, a manifest, tars, a packed dataset, physics://mixed or world://NAME",
    )


def _open_custom(uri: str) -> Source:
    """A user's own source: `package.module:Name?key=value`, checked by its `Config`."""
    path, _, query = uri.partition("?")
    part = CustomComponent.model_validate({"kind": path, **dict(parse_qsl(query))})
    source = import_component(path)(component_config(part))
    if not isinstance(source, Source):
        raise RequestError(
            "a source has 'uri', 'units' and 'clips'",
            where=path,
            hint="see orchestrator.data.sources.base.Source",
        )
    return source
