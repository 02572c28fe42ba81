"""What a person writes for a folder or an object store, as one path or URI; or one line that says
why it is none."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from orchestrator.errors import RequestError

REMOTE_SCHEMES = ("s3", "gs")

_SCHEME_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_UNSUPPORTED_SCHEMES = ("http", "https", "ftp", "az", "abfs", "abfss", "wasb", "hdfs", "hf", "ssh")
# Of one letter it would be a drive of Windows.
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/*)(?P<rest>.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")

PATH_HINT = "use a local path, s3://bucket/prefix or gs://bucket/prefix"


def is_remote(uri: str) -> bool:
    """True for object stores (`s3://`, `gs://`), False for local paths."""
    return uri.lower().startswith(tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES))


def normalize_path(given: str) -> str:
    """An absolute local path, or s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, without a slash at its
    end.

    `~` and `~USER` at its beginning are home folders; of file:///PATH the escapes (%20) are read.
    In all others `%`, `?` and `#` stand for themselves.

    Raises:
        RequestError: it is none of these.
    """
    if not given.strip():
        raise RequestError("an empty path", hint=PATH_HINT)
    if "\0" in given:
        raise RequestError("a path with a NUL character", where=repr(given), hint=PATH_HINT)
    match = _SCHEME.fullmatch(given)
    if match is not None:
        scheme = _SCHEME_ALIASES.get(match["scheme"].lower(), match["scheme"].lower())
        if scheme in REMOTE_SCHEMES:
            return _bucket_uri(given, scheme, match["slashes"], match["rest"])
        if scheme == "file":
            return _absolute(_path_of_file_uri(given, match["slashes"], match["rest"]))
        if scheme in _UNSUPPORTED_SCHEMES or match["slashes"].startswith("//"):
            raise RequestError(f"storage scheme of '{given}' is not supported", hint=PATH_HINT)
    return _absolute(_expand_home(given))


def local_path(given: str | Path) -> Path:
    """The path of a local file or folder that a person names; `~` is a home folder.

    Raises:
        RequestError: it is in an object store, or no path.
    """
    given = str(given)
    if is_remote(given):
        raise RequestError(f"'{given}' is not on this machine", hint="name a local path")
    path = Path(normalize_path(given))
    return Path(given) if path == Path(given).absolute() else path  # as short as it was given


def split_uri(uri: str) -> SplitResult:
    """The parts of a URI.

    Raises:
        RequestError: it is none (brackets that are no IPv6 address).
    """
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise RequestError(f"not a URI: {error}", where=uri, hint="check its spelling") from None


def require_writable(folder: Path, where: str) -> None:
    """Refuse a local folder that cannot be written, or made. Nothing is left there.

    Raises:
        RequestError: it is a file, lies in one, or may not be written.
    """
    place = folder
    try:
        place = _nearest_existing(folder)
        if place.is_dir():
            with tempfile.TemporaryFile(dir=place):
                return
        reason = "a file, not a folder" if place.exists() else "a link to nothing"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # no matter of the path, and room may be made
        reason = (error.strerror or str(error)).lower()
    told = "" if place == folder else f" ({place})"
    raise RequestError(
        f"cannot write in {folder}: {reason}{told}",
        where=where,
        hint="name a folder that can be written",
    )


def _nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    for place in (folder, *folder.parents):
        try:
            place.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            continue
    return place


def _bucket_uri(given: str, scheme: str, slashes: str, rest: str) -> str:
    bucket, _, prefix = rest.partition("/")
    if slashes != "//" or _BUCKET.fullmatch(bucket) is None:
        raise RequestError(
            f"'{given}' names no bucket",
            hint=f"write {scheme}://BUCKET, or {scheme}://BUCKET/PREFIX",
        )
    return f"{scheme}://{bucket}/{prefix}".rstrip("/")


def _path_of_file_uri(given: str, slashes: str, rest: str) -> str:
    """The path of file:///PATH, file:/PATH or file://localhost/PATH."""
    host, separator, path = rest.partition("/")
    if slashes == "//" and host == "localhost" and separator:
        return unquote(f"/{path}")
    if len(slashes) in (1, 3):
        return unquote(f"/{rest}")
    raise RequestError(
        f"'{given}' is not the URI of a file on this machine",
        hint="write file:///PATH, or the path alone",
    )


def _expand_home(given: str) -> str:
    if given.startswith("~"):
        path = os.path.expanduser(given)
        if os.environ.get("HOME") == "" or not os.path.isabs(path):
            name = given.partition("/")[0]
            raise RequestError(
                f"'{given}': there is no home folder '{name}'",
                hint=f"write the whole path; a folder that is named so is ./{given}",
            )
        return path
    if _VARIABLE.match(given) and not os.path.exists(given):
        raise RequestError(
            f"'{given}' begins with a variable, which is not read here",
            hint="write the path itself, or let the shell put it in",
        )
    return given


def _absolute(path: str) -> str:
    try:
        return str(Path(path).absolute())
    except OSError:
        raise RequestError(
            f"'{path}' is relative, and the working directory is gone",
            hint="change to a folder that exists, or write the whole path",
        ) from None
