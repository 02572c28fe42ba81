"""Lists the files of a folder: those that a source reads, and the reason for each other one."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.data.sources.base import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, Rejected
from orchestrator.data.sources.inputs import printable_path
from orchestrator.errors import RequestError
from orchestrator.storage import FileEntry, Storage
from orchestrator.storage.local_listing import NOT_A_REGULAR_FILE

COMPRESSED_TAR = re.compile(
    r"\.(tar\.(bz2|bz|gz|lz|lz4|lzma|lzo|xz|z|zst|zstd)|tgz|taz|tbz|tbz2|tlz|txz|tzst)$", re.I
)
"""File names of compressed tars, which do not allow random access."""

COMPRESSED_TAR_REASON = "a compressed tar, which cannot be read at random: unpack it to .tar"

_EXTENSIONS_BY_KIND = {"tar": ("tar",), "video": VIDEO_EXTENSIONS, "picture": IMAGE_EXTENSIONS}
_SIDECAR_EXTENSIONS = ("cls", "csv", "json", "npy", "tsv", "txt")
_DOCUMENT_STEMS = frozenset((
    "authors", "changelog", "citation", "contributing", "copying", "licence", "license", "notes",
    "notice", "readme",
))  # fmt: skip
_DOCUMENT_EXTENSIONS = frozenset(("", "cff", "html", "md", "pdf", "rst", "txt"))
_DESKTOP_FILES = frozenset(("desktop.ini", "thumbs.db"))
_PACKED_DATASET_TAR = re.compile(r"(^|/)datasets/[0-9a-f]{16}/[^/]+\.tar$")


@dataclass(frozen=True)
class Listing:
    """The files below a folder, without hidden ones."""

    files: list[FileEntry]
    unreadable: list[tuple[str, str]]
    """(path, reason) of what cannot be read; the path of a folder ends with "/"."""

    def with_extensions(self, extensions: Collection[str]) -> list[FileEntry]:
        """The files with one of these extensions (lower case, without the dot)."""
        return [entry for entry in self.files if extension_of(entry.path) in extensions]

    def tars(self) -> list[FileEntry]:
        """The tars, except those of datasets that were packed into this folder."""
        return [
            entry
            for entry in self.with_extensions(("tar",))
            if not _PACKED_DATASET_TAR.search(entry.path)
        ]


def list_folder(storage: Storage) -> Listing:
    """List all files below a folder.

    Raises:
        RequestError: the folder cannot be listed.
    """
    unreadable: list[tuple[str, str]] = []
    try:
        files = list(storage.files(on_unreadable=lambda *row: unreadable.append(row)))
    except OSError as error:
        unreadable.append(("/", f"cannot be listed: {error}"))
        files = []
    for path, reason in unreadable:
        if path == "/":
            raise RequestError(
                reason, where=storage.root, hint="check the path and its permissions"
            )
    return Listing(
        [entry for entry in files if not is_hidden(entry.path)],
        sorted(row for row in unreadable if not is_hidden(row[0])),
    )


def skipped_files(
    storage: Storage, listing: Listing, extensions: Collection[str], kind: str
) -> list[Rejected]:
    """A row for each file below a folder that is not read, except documents.

    An input that cannot be read has a share of 1, a file of another kind 0.

    Args:
        extensions: those of the files that are read.
        kind: what those files are: "videos", "pictures" or "tars".
    """
    rows: list[tuple[str, str, float]] = []
    for entry in listing.files:
        if extension_of(entry.path) not in extensions and not is_document(entry.path):
            rows.append((entry.path, f"left out: {_skip_reason(entry.path, kind)}", 0.0))
    for path, reason in listing.unreadable:
        is_lost = reason != NOT_A_REGULAR_FILE and (
            extension_of(path) in extensions or path.endswith("/")
        )
        rows.append((path, reason, float(is_lost)))
    rows.sort()
    return [
        Rejected(printable_path(storage.uri(path)), why, is_lost) for path, why, is_lost in rows
    ]


def extension_of(path: str) -> str:
    """The extension of a path, lower case, without the dot."""
    return path.rpartition("/")[2].rpartition(".")[2].lower()


def is_hidden(path: str) -> bool:
    """Whether any part of a path begins with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def is_document(path: str) -> bool:
    """Whether a file is about the data (README.md, LICENSE, ...), by its name."""
    name = path.rpartition("/")[2].lower()
    stem, _, extension = name.partition(".")
    described = stem in _DOCUMENT_STEMS and extension in _DOCUMENT_EXTENSIONS
    return described or name in _DESKTOP_FILES


def _skip_reason(path: str, kind: str) -> str:
    """Why a source of `kind` does not read a file."""
    extension = extension_of(path)
    if COMPRESSED_TAR.search(path):
        return COMPRESSED_TAR_REASON
    for what, extensions in _EXTENSIONS_BY_KIND.items():
        if extension in extensions:
            return (
                f"a {what} among {kind}: move it to a folder of its own and name that as a source"
            )
    if extension in _SIDECAR_EXTENSIONS:
        return f"a .{extension} among {kind} is not read: put labels in a manifest or in tars"
    return f"no extension of {kind}"
