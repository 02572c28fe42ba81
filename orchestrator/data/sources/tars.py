"""Source: WebDataset tars that are indexed in place, read once and never written."""

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
from orchestrator.storage import Storage, split_file_uri

_MAX_UNITS = 4096


class TarSource:
    """One tar, a folder of tars, or a pattern such as `s3://bucket/clips-{000..127}.tar`.

    A clip is a member with the extension of a video; its key is its name up to the last dot.
    `orchestrator.data.sources.tar_samples` says which other members belong to it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._skipped_inputs: list[Rejected] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skipped_inputs": []}

    def units(self) -> list[WorkUnit]:
        """Work units of one tar, or of several if there are thousands of tars.

        Raises:
            RequestError: a tar of the pattern is missing, or the pattern or the folder is invalid.
        """
        inputs = [(tar, file_identity(*split_file_uri(tar))) for tar in self._list_tars()]
        missing = [tar for tar, identity in inputs if identity == MISSING]
        if missing:
            raise RequestError(
                f"{len(missing)} of {len(inputs)} tars are missing",
                where=missing[0],
                hint="check the pattern's numbers, or restore the files",
            )
        return make_units(inputs, 1 + len(inputs) // _MAX_UNITS)

    def left_out(self) -> list[Rejected]:
        """Files that the last call of `units` skipped."""
        return self._skipped_inputs

    def shards(self, unit: WorkUnit) -> Iterator[IndexedShard | Rejected]:
        """The clips of each tar, and a row for each member or remainder that cannot be used."""
        for tar, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            location = split_file_uri(tar)
            if file_identity(*location) != identity:
                yield Rejected(tar, CHANGED_WHILE_PACKING)
                continue
            indexer = TarIndexer(tar)
            try:
                with convert_input_errors(location[0]):
                    indexer.read(*location)
            except DataError as error:
                yield Rejected(tar, error.what)
                continue
            if file_identity(*location) != identity:
                yield Rejected(tar, CHANGED_WHILE_PACKING)
                continue
            shard = indexer.shard()
            yield from indexer.rejected()
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
        reason = "its name is not UTF-8, so the index cannot contain it: rename the tar"
        self._skipped_inputs += [
            Rejected(printable_path(folder.uri(path)), reason) for path in unnamed
        ]
        return [folder.uri(entry.path) for entry in tars if entry.path not in set(unnamed)]


def expand_braces(pattern: str) -> list[str]:
    """Expand `a-{000..010}.tar` and `{x,y}.tar` to lists, as a shell does.

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
