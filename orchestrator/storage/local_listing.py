"""Listing folders on a local disk: names of any bytes, links, and what cannot be read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

NOT_A_REGULAR_FILE = "not a plain file (a pipe, a socket or a device)"


@dataclass(frozen=True)
class FileEntry:
    """One file: path relative to the storage root, bytes, and when it changed."""

    path: str
    size: int
    mtime_ns: int

    @property
    def identity(self) -> str:
        return f"{self.path}:{self.size}:{self.mtime_ns}"


class LocalFileLister:
    """The files below a local folder."""

    def __init__(self, root: str, on_unreadable: Callable[[str, str], None] | None) -> None:
        self._root, self._refused = root, on_unreadable
        self._entries: list[FileEntry] = []
        self._folders: list[tuple[str, str]] = []  # path below the root, real path
        self._folder_links: list[str] = []  # to folders

    def files(self, path: str, recursive: bool) -> list[FileEntry]:
        """See `Storage.files`."""
        read: set[str] = set()
        self._folder_links.append(path)
        while self._folders or self._folder_links:
            # Links come last, so that a folder's files are named by its own path.
            linked = not self._folders
            path = self._folder_links.pop(0) if linked else self._folders[-1][0]
            real = os.path.realpath(self._full_path(path)) if linked else self._folders.pop()[1]
            if real not in read:
                read.add(real)
                self._scan_folder(path, real, recursive)
            elif linked:
                self._report_unreadable(path, "a link to a folder that is read already")
        return sorted(self._entries, key=lambda entry: entry.path)

    def _full_path(self, path: str) -> str:
        return os.path.join(self._root, path) if path else self._root

    def _scan_folder(self, path: str, real: str, recursive: bool) -> None:
        try:
            with os.scandir(self._full_path(path)) as entries:
                for entry in entries:
                    name = f"{path}/{entry.name}" if path else entry.name
                    self._add_entry(name, entry, f"{real}/{entry.name}", recursive)
        except FileNotFoundError:
            return
        except OSError as error:
            if self._refused is None:
                raise
            self._report_unreadable(f"{path}/", f"cannot be listed: {error.strerror}")

    def _add_entry(self, path: str, entry: os.DirEntry[str], real: str, recursive: bool) -> None:
        try:
            info = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                circle = error.errno == errno.ELOOP
                leads = "in a circle" if circle else f"nowhere: {error.strerror}"
                self._report_unreadable(path, f"a link that leads {leads}")
            elif not isinstance(error, FileNotFoundError):  # that was deleted meanwhile
                self._report_unreadable(path, f"cannot be read: {error.strerror}")
            return
        if stat.S_ISREG(info.st_mode):
            self._entries.append(FileEntry(path, info.st_size, info.st_mtime_ns))
        elif not stat.S_ISDIR(info.st_mode):
            self._report_unreadable(path, NOT_A_REGULAR_FILE)
        elif recursive and entry.is_symlink():
            self._folder_links.append(path)
        elif recursive:
            self._folders.append((path, real))

    def _report_unreadable(self, path: str, reason: str) -> None:
        if self._refused is not None:
            self._refused(path, reason)
