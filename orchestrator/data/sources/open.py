"""Opens the source that a URI names: by its scheme, by an import path, or by what a path holds."""

from __future__ import annotations

import re
from typing import cast
from urllib.parse import parse_qsl

from orchestrator.data.sources.base import (
    IMAGE_EXTENSIONS,
    MANIFEST_EXTENSIONS,
    VIDEO_EXTENSIONS,
    AnySource,
    InPlaceSource,
    PackedSource,
    Source,
)
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.inputs import printable_path
from orchestrator.data.sources.lerobot.info import INFO_FILE, is_lerobot
from orchestrator.data.sources.lerobot.source import SCHEME as LEROBOT_SCHEME
from orchestrator.data.sources.lerobot.source import LeRobotSource
from orchestrator.data.sources.listing import COMPRESSED_TAR, COMPRESSED_TAR_REASON, list_folder
from orchestrator.data.sources.manifest import ManifestSource
from orchestrator.data.sources.tars import TarSource
from orchestrator.errors import RequestError
from orchestrator.job import component_config, import_component
from orchestrator.job.config.base import CustomComponent
from orchestrator.storage import Storage

SOURCES_BY_SCHEME = {
    "physics://": "orchestrator.physics.source:PhysicsSource",
    "world://": "orchestrator.environments.source:EnvironmentSource",
}
"""Import paths of the sources of generated video, which are built from the URI alone.

They are imported when they are named: their packages stand above this one.
"""

_IMPORT_PATH_URI = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\?.*)?$")


def open_source(uri: str, unit_size: int = 32) -> AnySource:
    """The source that a URI names.

    A folder of videos or of images (searched recursively), one video or image, a V-JEPA manifest
    (.csv, .tsv, .txt), a tar, a folder or `{000..123}` pattern of tars, a packed dataset, a
    LeRobot v3 folder (or `lerobot://PATH?camera=KEY`), `physics://...`, `world://...`, or
    `package.module:Name?key=value` for a user's own class.

    Args:
        unit_size: number of inputs per work unit.

    Raises:
        RequestError: the path does not exist, cannot be read, or is none of these.
    """
    for scheme, path in SOURCES_BY_SCHEME.items():
        if uri.startswith(scheme):
            return cast(Source, import_component(path)(uri))
    if uri.startswith(LEROBOT_SCHEME):
        return LeRobotSource(uri, unit_size)
    if _IMPORT_PATH_URI.match(uri):
        return _open_custom(uri)
    storage = Storage(uri)
    uri = storage.root
    is_pattern = "{" in uri and ".tar" in uri
    if COMPRESSED_TAR.search(uri) and (is_pattern or _file_or_folder(storage) == "file"):
        raise RequestError(f"is {COMPRESSED_TAR_REASON}", where=uri)
    if is_pattern:
        return TarSource(uri)
    if _file_or_folder(storage) == "file":
        return _open_file(uri, unit_size)
    try:
        if storage.exists("index.parquet") or storage.exists("shards.parquet"):
            return PackedSource(uri)
        if is_lerobot(storage):
            return LeRobotSource(uri, unit_size)
    except OSError as error:
        raise RequestError(
            f"cannot be read: {error}", where=uri, hint="check the path and its permissions"
        ) from None
    return _open_folder(storage, unit_size)


def _open_file(uri: str, unit_size: int) -> Source | InPlaceSource:
    """The source of a single file, by its extension.

    Raises:
        RequestError: the extension is that of no source.
    """
    extension = uri.rpartition("/")[2].rpartition(".")[2].lower()
    if extension == "tar":
        return TarSource(uri)
    if extension in MANIFEST_EXTENSIONS:
        return ManifestSource(uri, unit_size)
    if extension in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
        is_image = extension in IMAGE_EXTENSIONS
        return FolderSource(uri, unit_size, is_single_file=True, images=is_image)
    raise RequestError(
        f"a file ending in '.{extension}' is not a source",
        where=uri,
        hint="name a folder of videos or images, a manifest (.csv, .tsv, .txt), a video, an image"
        " or a .tar",
    )


def _open_folder(storage: Storage, unit_size: int) -> Source | InPlaceSource:
    """The source of a folder: tars if they outnumber the videos, else videos, else images.

    Raises:
        RequestError: none of these is in the folder, or a LeRobot folder is.
    """
    listing = list_folder(storage)
    for entry in listing.files:
        subfolder = storage.subfolder(entry.path.removesuffix(INFO_FILE))
        if entry.path.endswith(f"/{INFO_FILE}") and is_lerobot(subfolder):
            raise RequestError(
                "a LeRobot folder is inside the source: its episodes can be read only through its"
                " own tables",
                where=subfolder.root,
                hint="name each LeRobot folder as a source of its own",
            )
    videos = listing.with_extensions(VIDEO_EXTENSIONS)
    if len(listing.tars()) > len(videos):
        return TarSource(storage.root)
    if videos:
        return FolderSource(storage.root, unit_size)
    if listing.with_extensions(IMAGE_EXTENSIONS):
        return FolderSource(storage.root, unit_size, images=True)
    what, hint = (
        "the folder is empty",
        "name a folder with videos (mp4, mkv, avi, webm, mov, ...), images (jpg, png, webp) or"
        " .tar files in it",
    )
    if listing.files:
        what = f"no video among {len(listing.files)} files"
    if listing.unreadable:
        path, reason = listing.unreadable[0]
        what += f"; {len(listing.unreadable)} cannot be read, {printable_path(path)}: {reason}"
    compressed = [entry.path for entry in listing.files if COMPRESSED_TAR.search(entry.path)]
    if compressed:
        hint = f"{printable_path(compressed[0])} is {COMPRESSED_TAR_REASON}"
    raise RequestError(what, where=storage.root, hint=hint)


def _file_or_folder(storage: Storage) -> str:
    """'file' or 'folder'.

    Raises:
        RequestError: the path does not exist or cannot be reached.
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
        "no such file or folder",
        where=storage.root,
        hint="name a folder of videos, a manifest, tars, a packed dataset, physics://mixed or"
        " world://NAME",
    )


def _open_custom(uri: str) -> Source:
    """A user's own source, `package.module:Name?key=value`, built from its validated `Config`.

    Raises:
        RequestError: it cannot be imported, its options are wrong, or it is no `Source`.
    """
    path, _, query = uri.partition("?")
    component = CustomComponent.model_validate({"kind": path, **dict(parse_qsl(query))})
    source = import_component(path)(component_config(component))
    if not isinstance(source, Source):
        raise RequestError(
            "a source has 'uri', 'units' and 'clips'",
            where=path,
            hint="see orchestrator.data.sources.base.Source",
        )
    return source
