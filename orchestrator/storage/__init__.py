"""Files in a local folder or on an object store: `s3://` or `gs://` (pyarrow.fs).

A `Storage` is a root and operations on paths relative to it, which use '/'. Credentials come from
the environment as pyarrow reads them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from a
job file.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from orchestrator.errors import RequestError
from orchestrator.paths import is_remote as is_remote
from orchestrator.paths import normalize_path
from orchestrator.storage.local_listing import FileEntry as FileEntry
from orchestrator.storage.local_listing import LocalFileLister

if TYPE_CHECKING:
    import pyarrow.fs as pafs

RETRY_TIMEOUT_S = 180.0
"""Seconds for which a failing storage is retried."""

FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 0.5, 15.0

# Errors that retrying does not fix.
_NOT_RETRIED = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)


def with_retries(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """The result of `call(*args)`, retried while the storage fails (a full disk, an outage).

    The delays double from half a second to fifteen. `call` must be safe to repeat.

    Raises:
        OSError: it still fails after `RETRY_TIMEOUT_S` seconds, or a file is missing or exists
            already, which retrying does not fix.
    """
    deadline = time.monotonic() + RETRY_TIMEOUT_S
    pause = FIRST_RETRY_DELAY_S
    while True:
        try:
            return call(*args, **options)
        except _NOT_RETRIED:
            raise
        except OSError as error:
            if time.monotonic() + pause > deadline:
                raise
            logger.warning("the storage fails, retrying: %s", str(error)[:200])
            time.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_DELAY_S)


def join_path(root: str, *parts: str) -> str:
    """Join path parts onto a root that may be a URI."""
    return "/".join([root.rstrip("/"), *[part.strip("/") for part in parts if part]])


def split_file_uri(uri: str) -> tuple[Storage, str]:
    """The folder of a file and the file's name in it, for a full path or URI."""
    folder, _, name = uri.rpartition("/")
    return Storage(folder or "/"), name


class Storage:
    """A folder, local or remote. Cheap to pickle: the file system is opened when it is used.

    Raises:
        RequestError: `root` is not a path or URI (`orchestrator.paths`).
    """

    def __init__(self, root: str) -> None:
        self.root = normalize_path(root)
        self._fs: pafs.FileSystem | None = None
        self._base = ""

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_fs": None, "_base": ""}

    @property
    def is_remote(self) -> bool:
        return is_remote(self.root)

    def subfolder(self, *parts: str) -> Storage:
        """The storage whose root is a folder of this one."""
        return Storage(join_path(self.root, *parts))

    @property
    def parent(self) -> Storage:
        """The storage whose root is the parent folder."""
        return Storage(self.root.rsplit("/", 1)[0])

    def uri(self, path: str = "") -> str:
        """The full path or URI of `path`, for other tools."""
        return join_path(self.root, path) if path else self.root

    @property
    def fs(self) -> pafs.FileSystem:
        """The pyarrow file system behind the root."""
        if self._fs is None:
            self._fs, self._base = _open_filesystem(self.root)
        return self._fs

    def fs_path(self, path: str = "") -> str:
        """`path` as a path of `self.fs`."""
        _ = self.fs
        return join_path(self._base, path) if path else self._base

    # -- reading ---------------------------------------------------------------------------

    def exists(self, path: str = "") -> bool:
        import pyarrow.fs as pafs

        return bool(self.fs.get_file_info(self.fs_path(path)).type != pafs.FileType.NotFound)

    def is_dir(self, path: str = "") -> bool:
        import pyarrow.fs as pafs

        return bool(self.fs.get_file_info(self.fs_path(path)).type == pafs.FileType.Directory)

    def read_bytes(self, path: str) -> bytes:
        with self.fs.open_input_file(self.fs_path(path)) as file:
            return cast(bytes, file.read())

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; shorter only at the end of the file."""
        with self.fs.open_input_file(self.fs_path(path)) as file:
            return cast(bytes, file.read_at(length, offset))

    def read_json(self, path: str) -> Any:
        return json.loads(self.read_bytes(path))

    def files(
        self,
        path: str = "",
        *,
        recursive: bool = True,
        on_unreadable: Callable[[str, str], None] | None = None,
    ) -> Iterator[FileEntry]:
        """Files below `path`, sorted by path; none if the folder does not exist.

        On a local disk, links to folders are followed, each folder is read once, and names that
        are not UTF-8 are decoded by `os.fsdecode`.

        Args:
            recursive: include subfolders.
            on_unreadable: called with path and reason of what cannot be read: a broken link, a
                pipe, a folder without permission (its path ends with "/"). None: skip them.

        Raises:
            OSError: a folder cannot be listed, and there is no `on_unreadable`.
        """
        import pyarrow.fs as pafs

        if not self.is_remote:
            yield from LocalFileLister(self.fs_path(), on_unreadable).files(
                path.strip("/"), recursive
            )
            return
        selector = pafs.FileSelector(self.fs_path(path), recursive=recursive, allow_not_found=True)
        prefix = len(self.fs_path().rstrip("/")) + 1
        infos = [i for i in self.fs.get_file_info(selector) if i.type == pafs.FileType.File]
        for info in sorted(infos, key=lambda i: i.path):
            yield FileEntry(info.path[prefix:], int(info.size or 0), int(info.mtime_ns or 0))

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders directly below `path`, sorted."""
        import pyarrow.fs as pafs

        if not self.is_remote:
            try:
                with os.scandir(self.fs_path(path)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except FileNotFoundError:
                return []
        selector = pafs.FileSelector(self.fs_path(path), recursive=False, allow_not_found=True)
        infos = self.fs.get_file_info(selector)
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)

    # -- writing ---------------------------------------------------------------------------

    def mkdir(self, path: str = "") -> None:
        if not self.is_remote:
            os.makedirs(self.fs_path(path), exist_ok=True)

    def write_bytes(self, path: str, data: bytes | memoryview) -> None:
        """Write a file atomically: a reader gets the old or the new content, never a part.

        On a local disk by a temporary file, fsync and rename; on an object store a put is atomic.
        """
        if self.is_remote:
            with self.fs.open_output_stream(self.fs_path(path)) as stream:
                stream.write(data)
            return
        target = Path(self.fs_path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            fsync_path(str(target.parent))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def write_json(self, path: str, value: Any) -> None:
        self.write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def write_if_absent(self, path: str, data: bytes) -> bool:
        """Write `path` only if it does not exist; True if this call created it (first wins).

        Local disks: a hard link, which fails if the name exists. Object stores: pyarrow has no
        conditional put, so check and put are two requests, and if two writers race, the later
        replaces the earlier. The files that such a file refers to must therefore have unique names
        and not be read before all writers are done (as in `orchestrator.data.packing.unit`).
        """
        if self.is_remote:
            if self.exists(path):
                return False
            self.write_bytes(path, data)
            return True
        target = Path(self.fs_path(path))
        staged = f"{path}.{uuid.uuid4().hex[:8]}.staged"
        self.write_bytes(staged, data)
        try:
            os.link(self.fs_path(staged), target)
        except FileExistsError:
            return False
        finally:
            Path(self.fs_path(staged)).unlink(missing_ok=True)
        return True

    def move_tree(self, path: str, target: str) -> None:
        """Rename a folder; on an object store copy each object on the server, then delete it."""
        if not self.is_remote:
            os.rename(self.fs_path(path), self.fs_path(target))
            return
        for entry in list(self.files(path)):
            self.fs.copy_file(
                self.fs_path(entry.path), self.fs_path(target + entry.path[len(path) :])
            )
        self.delete_tree(path)

    def copy_file(self, path: str, target: str) -> None:
        """Copy one file; on an object store the server does it. Not atomic."""
        self.mkdir(target.rpartition("/")[0])
        self.fs.copy_file(self.fs_path(path), self.fs_path(target))
        if not self.is_remote:
            fsync_path(self.fs_path(target))

    def delete(self, path: str) -> None:
        """Delete a file if it exists."""
        if self.exists(path):
            self.fs.delete_file(self.fs_path(path))

    def delete_tree(self, path: str) -> None:
        """Delete a folder and everything in it, if it exists."""
        if self.is_dir(path):
            self.fs.delete_dir(self.fs_path(path))


def fsync_path(path: str) -> None:
    """Flush a local file, or the entries of a local folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open_filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    import pyarrow.fs as pafs

    if not is_remote(root):
        return pafs.LocalFileSystem(), root
    scheme, _, base = root.partition("://")
    try:
        if scheme == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            return pafs.S3FileSystem(endpoint_override=endpoint), base
        return pafs.GcsFileSystem(), base
    except (OSError, ValueError) as error:
        raise RequestError(
            f"cannot open {root}: {str(error).splitlines()[0]}",
            hint="check the credentials and the endpoint (AWS_ENDPOINT_URL, AWS_REGION)",
        ) from None
