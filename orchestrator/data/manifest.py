"""A V-JEPA manifest: one video a line, with a label behind it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from orchestrator.data.inputs import MISSING, clips_of_file, identity_of, make_units
from orchestrator.data.sources import VIDEO_EXTENSIONS, RawClip, Rejected, WorkUnit
from orchestrator.errors import RequestError
from orchestrator.job import Encode
from orchestrator.storage import Storage, is_remote

_HEADERS = {"path", "video", "videos", "file", "filename", "video_path", "filepath"}
_AGAIN = "again"


class ManifestSource:
    """Lines of `path label`, separated by a space, a tab or a comma; the label may be absent.

    Paths may contain spaces, and quotes where they contain the separator; relative ones
    start at the manifest's folder. The label goes into KEY.json.
    """

    def __init__(self, uri: str, unit: int) -> None:
        self.uri, self.unit = uri, unit
        self.folder = uri.rpartition("/")[0]

    def units(self) -> list[WorkUnit]:
        """Units of `unit` lines each, in the manifest's order.

        Raises:
            RequestError: the manifest cannot be read, is empty, or none of its files exists.
        """
        lines = self._lines()
        paths = dict.fromkeys(path for path, _ in lines)
        with ThreadPoolExecutor(16) as pool:  # one request per path where the store is remote
            found_states = pool.map(lambda path: identity_of(*self._split(path)), paths)
            states = dict(zip(paths, found_states, strict=True))
        found = [(f"{path}\t{label}", states.pop(path, _AGAIN)) for path, label in lines]
        if all(state == MISSING for _, state in found):
            raise RequestError(
                f"none of the {len(found)} files that it names exists",
                where=self.uri,
                mend=f"relative paths start at the manifest's folder: {self.folder}",
            )
        return make_units(found, self.unit)

    def clips(self, unit: WorkUnit, encode: Encode) -> Iterator[RawClip | Rejected]:
        """The clips of every line of a unit, in order."""
        for line, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            path, _, label = line.partition("\t")
            storage, name = self._split(path)
            if identity == _AGAIN:
                yield Rejected(storage.uri(name), "listed twice in the manifest")
                continue
            extras = {"json": json.dumps({"label": _value(label)}).encode()} if label else {}
            yield from clips_of_file(storage, name, identity, encode, extras)

    def _split(self, path: str) -> tuple[Storage, str]:
        """The storage and the path in it, of a path as the manifest gives it."""
        if is_remote(path) or path.startswith("/"):
            folder, _, name = path.rpartition("/")
            return Storage(folder or "/"), name
        return Storage(self.folder), path

    def _lines(self) -> list[tuple[str, str]]:
        place, name = Storage(self.folder), self.uri.rpartition("/")[2]
        try:
            text = place.read_bytes(name).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"cannot read the manifest: {error}",
                where=self.uri,
                mend="a manifest is UTF-8 text, one 'path label' a line",
            ) from None
        rows = [split_line(line.strip()) for line in text.splitlines() if line.strip()]
        if rows and rows[0][0].strip().lower() in _HEADERS:
            rows = rows[1:]
        if not rows:
            raise RequestError(
                "the manifest is empty", where=self.uri, mend="write one 'path label' a line"
            )
        return rows


def split_line(line: str) -> tuple[str, str]:
    """Path and label of one line; the label is '' where there is none."""
    if line.startswith('"'):
        after = line[line.index('"', 1) + 1 :] if '"' in line[1:] else ""
        separator = after[:1] if after[:1] in (",", "\t", " ") and after else ","
        fields = next(csv.reader([line], delimiter=separator))
        return fields[0], (fields[1].strip() if len(fields) > 1 else "")
    if _is_video(line):
        return line, ""
    separators: tuple[str | None, ...] = ("\t", ",", None)
    for mark in separators:
        head, *tail = line.rsplit(mark, 1)
        if tail and _is_video(head.strip()):
            return head.strip(), tail[0].strip()
    head, *tail = line.replace(",", " ").rsplit(None, 1)
    return head.strip(), tail[0] if tail else ""


def _is_video(text: str) -> bool:
    return text.rpartition(".")[2].lower() in VIDEO_EXTENSIONS and "." in text


def _value(label: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(label)
        except ValueError:
            continue
    return label
