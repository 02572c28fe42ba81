"""Source: a V-JEPA manifest, a text file with one `path label` per line."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from orchestrator.data.sources.base import VIDEO_EXTENSIONS, RawClip, Rejected, WorkUnit
from orchestrator.data.sources.inputs import (
    MISSING,
    UNREADABLE_PREFIX,
    file_identity,
    make_units,
    printable_path,
)
from orchestrator.data.sources.raw_clips import read_clips
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage, is_remote, split_file_uri

_HEADER_NAMES = {"path", "video", "videos", "file", "filename", "video_path", "filepath"}
_DUPLICATE = "again"
"""Identity of a file that an earlier line names; part of the dataset's digest, so it is fixed."""

_MAX_LINE_LENGTH = 1 << 16  # characters of a line that is parsed; no path is as long
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,299}")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,199})(\.[0-9]+(e[+-][0-9]{2})?|e[+-][0-9]{2})")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?:\s*([,\t ])(.*))?')


class ManifestSource:
    """Lines of `path label`, separated by a space, a tab or a comma; the label may be absent.

    Paths may contain spaces, and are quoted if they contain the separator; relative ones start at
    the manifest's folder. The label is written to KEY.json: a plain decimal number as a number,
    everything else as text.
    """

    def __init__(self, uri: str, unit_size: int) -> None:
        self.uri, self.unit_size = uri, unit_size
        self.folder = uri.rpartition("/")[0] or "/"

    def units(self) -> list[WorkUnit]:
        """Work units of `unit_size` lines, in the manifest's order.

        Raises:
            RequestError: the manifest cannot be read, is empty, or none of its files exists.
        """
        lines = self._read_rows()
        canonical_paths = self._canonical_paths({path for path, _ in lines})
        path_by_canonical = {
            canonical: path for path, canonical in reversed(list(canonical_paths.items()))
        }
        with ThreadPoolExecutor(16) as pool:  # one request per path on an object store
            identities = pool.map(
                lambda path: file_identity(*self._storage_and_name(path)),
                path_by_canonical.values(),
            )
            identity_by_canonical = dict(zip(path_by_canonical, identities, strict=True))
        inputs = [
            (
                _encode_input(path, label),
                identity_by_canonical.pop(canonical_paths[path], _DUPLICATE),
            )
            for path, label in lines
        ]
        if all(
            identity == MISSING or identity.startswith(UNREADABLE_PREFIX) for _, identity in inputs
        ):
            verb = "can be read" if any(identity != MISSING for _, identity in inputs) else "exists"
            raise RequestError(
                f"none of the {len(inputs)} files that it names {verb}",
                where=self.uri,
                hint=f"relative paths start at the manifest's folder: {self.folder}",
            )
        return make_units(inputs, self.unit_size)

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of every line of a unit, in order."""
        for line, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            path, label = _decode_input(line)
            storage, name = self._storage_and_name(path)
            if identity == _DUPLICATE:
                yield Rejected(printable_path(storage.uri(name)), "listed twice in the manifest")
                continue
            extras = {"json": json.dumps({"label": _parse_label(label)}).encode()} if label else {}
            yield from read_clips(storage, name, identity, encode, extras)

    def _storage_and_name(self, path: str) -> tuple[Storage, str]:
        """The storage and the path in it, for a path as written in the manifest."""
        if is_remote(path) or is_remote(self.folder):
            path = path.replace("/./", "/").removeprefix("./")  # object stores take "." for a name
        if is_remote(path) or path.startswith("/"):
            return split_file_uri(path)
        return Storage(self.folder), path

    def _canonical_paths(self, paths: set[str]) -> dict[str, str]:
        """One canonical path per file, by the paths as written in the manifest."""
        folders: dict[str, str] = {}
        canonical = {}
        for path in sorted(paths):
            storage, name = self._storage_and_name(path)
            folder, slash, base = storage.uri(name).rpartition("/")
            if not storage.is_remote and "\0" not in path:
                if folder not in folders:
                    folders[folder] = os.path.realpath(folder + slash)
                folder = folders[folder]
            canonical[path] = f"{folder}/{base}"
        return canonical

    def _read_rows(self) -> list[tuple[str, str]]:
        storage, name = Storage(self.folder), self.uri.rpartition("/")[2]
        try:
            text = storage.read_bytes(name).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"cannot read the manifest: {error}",
                where=self.uri,
                hint="a manifest is UTF-8 text, one 'path label' a line",
            ) from None
        lines = [line.strip("\ufeff \t\v\f") for line in re.split(r"\r\n|\r|\n", text)]
        rows = [parse_line(line) for line in lines if line]
        if rows and rows[0][0].strip().lower() in _HEADER_NAMES:
            rows = rows[1:]
        if not rows:
            raise RequestError(
                "the manifest is empty", where=self.uri, hint="write one 'path label' a line"
            )
        return rows


def parse_line(line: str) -> tuple[str, str]:
    """Split one line into path and label; the label is '' if there is none."""
    if len(line) > _MAX_LINE_LENGTH:
        return line, ""
    if quoted := _QUOTED.fullmatch(line):
        path, delimiter, label = quoted.groups(default="")
        if delimiter == "," or label.lstrip().startswith('"'):
            label = (next(csv.reader([label.lstrip()], delimiter=delimiter), []) or [""])[0]
        return path.replace('""', '"'), label.strip()
    if _is_video(line):
        return line, ""
    for delimiter in ("\t", ",", " ") if line.endswith('"') else ():
        *names, label = next(csv.reader([line], delimiter=delimiter))
        if _is_video(delimiter.join(names).strip()):
            return delimiter.join(names).strip(), label.strip()
    separators: tuple[str | None, ...] = ("\t", ",", None)
    for separator in separators:
        head, *tail = line.rsplit(separator, 1)
        if tail and _is_video(head.strip()):
            return head.strip(), tail[0].strip()
    head, *tail = line.replace(",", " ").rsplit(None, 1)
    return head.strip(), tail[0] if tail else ""


def _encode_input(path: str, label: str) -> str:
    """Encode a line as an input of a work unit; `_decode_input` is the inverse."""
    if "\t" in path or not path:
        return "\t" + json.dumps([path, label])
    return f"{path}\t{label}"


def _decode_input(text: str) -> tuple[str, str]:
    if text.startswith("\t"):
        path, label = json.loads(text)
        return path, label
    path, _, label = text.partition("\t")
    return path, label


def _is_video(text: str) -> bool:
    return text.rpartition(".")[2].lower() in VIDEO_EXTENSIONS and "." in text


def _parse_label(label: str) -> int | float | str:
    if _INTEGER.fullmatch(label):
        return int(label)
    return float(label) if _FLOAT.fullmatch(label) else label
