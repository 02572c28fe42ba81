"""WebDataset tars from elsewhere, indexed where they lie: read once, never written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.data.sources.base import (
    CHANGED_WHILE_PACKING,
    Rejected,
    WorkUnit,
)
from orchestrator.data.sources.inputs import (
    MISSING,
    convert_input_errors,
    file_identity,
    make_units,
    path_to_utf8,
    printable_path,
)
from orchestrator.data.sources.listing import (
    list_folder,
    skipped_files,
)
from orchestrator.data.sources.tar_indexer import TarIndexer
from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.errors import DataError, RequestError
from orchestrator.storage import Storage

_MAX_UNITS = 4096


class TarSource:
    """One tar, a folder of tars, or a pattern such as `s3://bucket/clips-{000..127}.tar`.

    A clip is a member with a video's extension, and its key is its name up to the last dot; what
    else belongs to it: `orchestrator.data.sources.tar_samples`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._skipped_inputs: list[Rejected] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skipped_inputs": []}

    def units(self) -> list[WorkUnit]:
        """Units of one tar, or of a few where there are thousands.

        Raises:
            RequestError: a tar that the pattern names is missing.
        """
        found = [(tar, file_identity(*_storage_and_name(tar))) for tar in self._list_tars()]
        missing = [tar for tar, state in found if state == MISSING]
        if missing:
            raise RequestError(
                f"{len(missing)} of {len(found)} tars are missing",
                where=missing[0],
                hint="check the pattern's numbers, or restore the files",
            )
        return make_units(found, 1 + len(found) // _MAX_UNITS)

    def left_out(self) -> list[Rejected]:
        """What the last `units` found beside the tars."""
        return self._skipped_inputs

    def shards(self, unit: WorkUnit) -> Iterator[IndexedShard | Rejected]:
        """Each tar's clips, and a row for each member or rest of a tar that cannot be used."""
        for tar, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            place = _storage_and_name(tar)
            if file_identity(*place) != identity:
                yield Rejected(tar, CHANGED_WHILE_PACKING)
                continue
            found = TarIndexer(tar)
            try:
                with convert_input_errors(place[0]):
                    found.read(*place)
            except DataError as error:
                yield Rejected(tar, error.what)
                continue
            if file_identity(*place) != identity:
                yield Rejected(tar, CHANGED_WHILE_PACKING)
                continue
            shard = found.shard()
            yield from found.rejected()
            yield shard

    def _list_tars(self) -> list[str]:
        if "{" in self.uri:
            return expand_braces(self.uri)
        if self.uri.lower().endswith(".tar"):
            return [self.uri]
        folder = Storage(self.uri)
        listing = list_folder(folder)
        self._skipped_inputs = skipped_files(folder, listing, ("tar",), "tars")
        tars = listing.tars()
        unnamed = [entry.path for entry in tars if path_to_utf8(entry.path) != entry.path]
        reason = "its name is not UTF-8, and the index must hold it: rename the tar"
        self._skipped_inputs += [
            Rejected(printable_path(folder.uri(path)), reason) for path in unnamed
        ]
        return [folder.uri(entry.path) for entry in tars if entry.path not in set(unnamed)]


def _storage_and_name(tar: str) -> tuple[Storage, str]:
    folder, _, name = tar.rpartition("/")
    return Storage(folder or "/"), name


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..010}.tar` and `{x,y}.tar` as lists, like a shell.

    Raises:
        RequestError: braces that are neither a range nor a list.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_expand_brace(p, pattern) if i % 2 else [p] for i, p in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _expand_brace(text: str, pattern: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if numbers:
        first, last = numbers.groups()
        return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    if "," in text:
        return text.split(",")
    raise RequestError(
        f"'{{{text}}}' is neither a range nor a list", where=pattern, hint="write {000..127}"
    )
