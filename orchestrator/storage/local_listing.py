"""Lists folders on a local disk: names of any bytes, links, and what cannot be read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

NOT_A_REGULAR_FILE = "not a plain file (a pipe, a socket or a device)"


@dataclass(frozen=True)
class FileEntry:
    """One file: path relative to the storage root, size in bytes, modification time in ns."""

    path: str
    size: int
    mtime_ns: int

    @property
    def identity(self) -> str:
        return f"{self.path}:{self.size}:{self.mtime_ns}"


class LocalFileLister:
    """Lists the files below a local folder.

    Args:
        root: the folder.
        on_unreadable: called with path and reason of what cannot be read; None: skip it.
    """

    def __init__(self, root: str, on_unreadable: Callable[[str, str], None] | None) -> None:
        self._root, self._on_unreadable = root, on_unreadable
        self._entries: list[FileEntry] = []
        self._folders: list[tuple[str, str]] = []  # path below the root, real path
        self._folder_links: list[str] = []  # paths of links to folders

    def files(self, path: str, recursive: bool) -> list[FileEntry]:
        """See `Storage.files`."""
        scanned: set[str] = set()
        self._folder_links.append(path)
        while self._folders or self._folder_links:
            # Links come last, so that the files of a folder get its own path, not that of a link.
            is_link = not self._folders
            path = self._folder_links.pop(0) if is_link else self._folders[-1][0]
            real = os.path.realpath(self._full_path(path)) if is_link else self._folders.pop()[1]
            if real not in scanned:
                scanned.add(real)
                self._scan_folder(path, real, recursive)
            elif is_link:
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
            if self._on_unreadable is None:
                raise
            self._report_unreadable(f"{path}/", f"cannot be listed: {error.strerror}")

    def _add_entry(self, path: str, entry: os.DirEntry[str], real: str, recursive: bool) -> None:
        try:
            info = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                is_loop = error.errno == errno.ELOOP
                leads = "in a circle" if is_loop else f"nowhere: {error.strerror}"
                self._report_unreadable(path, f"a link that leads {leads}")
            elif not isinstance(error, FileNotFoundError):  # deleted in the meantime
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
        if self._on_unreadable is not None:
            self._on_unreadable(path, reason)
