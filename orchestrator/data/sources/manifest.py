"""A V-JEPA manifest: one video a line, with a label behind it."""

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
from orchestrator.storage import Storage, is_remote

_HEADER_NAMES = {"path", "video", "videos", "file", "filename", "video_path", "filepath"}
_DUPLICATE = "again"
_MAX_LINE_LENGTH = 1 << 16  # characters of a line that is taken apart; no path is as long
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,299}")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,199})(\.[0-9]+(e[+-][0-9]{2})?|e[+-][0-9]{2})")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?:\s*([,\t ])(.*))?')


class ManifestSource:
    """Lines of `path label`, separated by a space, a tab or a comma; the label may be absent.

    Paths may contain spaces, and quotes where they contain the separator; relative ones
    start at the manifest's folder. The label goes into KEY.json: a plain decimal number as a
    number, all else as text.
    """

    def __init__(self, uri: str, unit_size: int) -> None:
        self.uri, self.unit_size = uri, unit_size
        self.folder = uri.rpartition("/")[0] or "/"

    def units(self) -> list[WorkUnit]:
        """Units of `unit` lines each, in the manifest's order.

        Raises:
            RequestError: the manifest cannot be read, is empty, or none of its files exists.
        """
        lines = self._read_rows()
        places = self._canonical_paths({path for path, _ in lines})
        first = {place: path for path, place in reversed(list(places.items()))}
        with ThreadPoolExecutor(16) as pool:  # one request per path where the store is remote
            found_states = pool.map(
                lambda path: file_identity(*self._storage_and_name(path)), first.values()
            )
            states = dict(zip(first, found_states, strict=True))
        found = [
            (_encode_input(path, label), states.pop(places[path], _DUPLICATE))
            for path, label in lines
        ]
        if all(state == MISSING or state.startswith(UNREADABLE_PREFIX) for _, state in found):
            exists = "can be read" if any(state != MISSING for _, state in found) else "exists"
            raise RequestError(
                f"none of the {len(found)} files that it names {exists}",
                where=self.uri,
                hint=f"relative paths start at the manifest's folder: {self.folder}",
            )
        return make_units(found, self.unit_size)

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
        """The storage and the path in it, of a path as the manifest gives it."""
        if is_remote(path) or is_remote(self.folder):
            path = path.replace("/./", "/").removeprefix("./")  # a store takes it for a name
        if is_remote(path) or path.startswith("/"):
            folder, _, name = path.rpartition("/")
            return Storage(folder or "/"), name
        return Storage(self.folder), path

    def _canonical_paths(self, paths: set[str]) -> dict[str, str]:
        """One name for each file, by the paths that the manifest gives it."""
        folders: dict[str, str] = {}
        places = {}
        for path in sorted(paths):
            storage, name = self._storage_and_name(path)
            folder, slash, base = storage.uri(name).rpartition("/")
            if not storage.is_remote and "\0" not in path:
                if folder not in folders:
                    folders[folder] = os.path.realpath(folder + slash)
                folder = folders[folder]
            places[path] = f"{folder}/{base}"
        return places

    def _read_rows(self) -> list[tuple[str, str]]:
        place, name = Storage(self.folder), self.uri.rpartition("/")[2]
        try:
            text = place.read_bytes(name).decode("utf-8-sig")
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
    """Path and label of one line; the label is '' where there is none."""
    if len(line) > _MAX_LINE_LENGTH:
        return line, ""
    if quoted := _QUOTED.fullmatch(line):
        path, mark, label = quoted.groups(default="")
        if mark == "," or label.lstrip().startswith('"'):
            label = (next(csv.reader([label.lstrip()], delimiter=mark), []) or [""])[0]
        return path.replace('""', '"'), label.strip()
    if _is_video(line):
        return line, ""
    for mark in ("\t", ",", " ") if line.endswith('"') else ():
        *names, label = next(csv.reader([line], delimiter=mark))
        if _is_video(mark.join(names).strip()):
            return mark.join(names).strip(), label.strip()
    separators: tuple[str | None, ...] = ("\t", ",", None)
    for separator in separators:
        head, *tail = line.rsplit(separator, 1)
        if tail and _is_video(head.strip()):
            return head.strip(), tail[0].strip()
    head, *tail = line.replace(",", " ").rsplit(None, 1)
    return head.strip(), tail[0] if tail else ""


def _encode_input(path: str, label: str) -> str:
    """A line as a unit keeps it; `_decode_input` reads it back."""
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
