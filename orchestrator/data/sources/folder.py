"""A folder of videos or of pictures, searched recursively, local or on an object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.data.sources.base import (
    PICTURE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    RawClip,
    Rejected,
    WorkUnit,
)
from orchestrator.data.sources.inputs import (
    clips_of_file,
    from_text,
    identity_of,
    make_units,
    to_text,
)
from orchestrator.data.sources.listing import left_out, list_folder
from orchestrator.errors import RequestError
from orchestrator.job import Encode
from orchestrator.storage import Storage

_PICTURES = 64
"""Pictures that count as a video in a work unit: they are small, and a shard should not be."""


class FolderSource:
    """Every video below a folder, by path; hidden files are left alone, others are named.

    `unit`: videos per work unit. `single`: the URI is one file instead of a folder. `pictures`:
    every picture of a folder instead of every video.
    """

    def __init__(
        self, uri: str, unit: int, *, single: bool = False, pictures: bool = False
    ) -> None:
        self.uri, self.unit, self.single, self.pictures = uri, unit, single, pictures
        self._left_out: list[Rejected] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_left_out": []}

    def units(self) -> list[WorkUnit]:
        """Units of `unit` videos each, sorted by path.

        Raises:
            RequestError: the folder cannot be read or holds no video.
        """
        wanted = PICTURE_EXTENSIONS if self.pictures else VIDEO_EXTENSIONS
        if self.single:
            storage, name = self._place()
            return make_units([(name, identity_of(storage, name))], 1)
        storage = Storage(self.uri)
        listing = list_folder(storage)
        found = [
            (to_text(entry.path), f"{entry.size}:{entry.mtime_ns}")
            for entry in listing.named(wanted)
        ]
        if not found:
            raise RequestError("no video in this folder", where=self.uri, mend="check the path")
        kind = "pictures" if self.pictures else "videos"
        self._left_out = left_out(storage, listing, wanted, kind)
        return make_units(found, self.unit * _PICTURES if self.pictures else self.unit)

    def left_out(self) -> list[Rejected]:
        """What the last `units` found beside its inputs."""
        return self._left_out

    def clips(self, unit: WorkUnit, encode: Encode) -> Iterator[RawClip | Rejected]:
        """The clips of every video of a unit, in order."""
        storage, _ = self._place()
        for name, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            path = from_text(name)
            yield from clips_of_file(storage, path, identity, encode, picture=self.pictures)

    def _place(self) -> tuple[Storage, str]:
        if not self.single:
            return Storage(self.uri), ""
        folder, _, name = self.uri.rpartition("/")
        return Storage(folder or "/"), name
