"""Reading a folder of features, and making sure that it is what one thinks it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import DataError, RequestError
from orchestrator.features.store import BAD, CLAIM, COMPLETE, METADATA
from orchestrator.storage import Storage


class Features:
    """The features that an `embed` job has written.

    `facts` is features.json; `rows` the number of clips; `shape` that of a clip's features;
    `grid` its tokens along time, height and width; `model` and `data` their digests.
    """

    def __init__(self, folder: Storage, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self.identity: dict[str, Any] = facts["identity"]
        self.rows = int(facts["rows"])
        self.shape: tuple[int, ...] = tuple(facts["shape"])
        self.grid: tuple[int, int, int] = tuple(self.identity["grid"])
        self.pooling = str(self.identity["pooling"])
        self.digest = str(facts["digest"])
        self.model = str(facts["model"]["digest"])
        self.data = [str(one["digest"]) for one in facts["data"]]

    @classmethod
    def open(
        cls, where: str, *, model: str | None = None, data: Sequence[str] | None = None
    ) -> Features:
        """The features in a folder.

        Args:
            where: a path or URI.
            model, data: digests (16 hex digits) that they must be of.

        Raises:
            RequestError: nothing is there, it is not finished, or it is of another model or of
                other data.
        """
        folder = Storage(where)
        if not folder.exists(COMPLETE):
            begun = folder.exists(CLAIM)
            raise RequestError(
                "these features are not finished" if begun else "no features here",
                where=folder.root,
                mend="run their embed job again: it continues"
                if begun
                else "name a folder that `kind: embed` has written",
            )
        found = cls(folder, folder.read_json(COMPLETE))
        if model is not None and model != found.model:
            raise RequestError(
                f"these features are of another model: of {found.model} ({found.model_uri}), not"
                f" of {model}",
                where=folder.root,
                mend="embed with that model under a name of its own",
            )
        if data is not None and list(data) != found.data:
            raise RequestError(
                f"these features are of other data: of {', '.join(found.data)}, not of"
                f" {', '.join(data)}",
                where=folder.root,
                mend="embed that data under a name of its own",
            )
        return found

    def __repr__(self) -> str:
        return f"Features({self.folder.root!r}, rows={self.rows}, shape={list(self.shape)})"

    @property
    def model_uri(self) -> str:
        """What the embed job called the model."""
        seed = self.facts["model"]["untrained"]
        uri = str(self.facts["model"]["uri"])
        return uri if seed is None else f"untrained {seed} of {uri}"

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a file at a time; every file is compared with its hash.

        Raises:
            DataError: a file is gone, or is not the one that was committed.
        """
        for part in self.facts["parts"]:
            try:
                data = self.folder.read_bytes(part["file"])
            except OSError as error:
                raise self._damaged(part["file"], f"cannot be read: {error}") from None
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise self._damaged(part["file"], "is not what was committed (sha256 differs)")
            file = pq.ParquetFile(pa.BufferReader(data))
            about = json.loads((file.schema_arrow.metadata or {}).get(METADATA, b"{}"))
            if about.get("identity") != self.identity:
                raise self._damaged(part["file"], "belongs to other features")
            yield file.read(columns=None if columns is None else list(columns))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, in order."""
        return pa.concat_tables(self.parts(columns))

    def array(self, file: Path | None = None) -> np.ndarray:
        """All features, [rows, *shape] in the stored type.

        Args:
            file: where the array is kept, mapped into memory: features may be larger than that.
        """
        kind = np.dtype(str(self.identity["dtype"]))
        whole = (self.rows, *self.shape)
        out: np.ndarray
        if file is None:
            out = np.empty(whole, kind)
        else:
            out = np.lib.format.open_memmap(file, "w+", kind, whole)
        at = 0
        for part in self.parts(["features"]):
            for chunk in part["features"].chunks:
                out[at : at + len(chunk)] = chunk.to_numpy_ndarray()
                at += len(chunk)
        return out

    def bad(self) -> list[dict[str, Any]]:
        """The clips that have no features: key, clip, shard, video, reason, short."""
        table = pq.read_table(pa.BufferReader(self.folder.read_bytes(BAD)))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _damaged(self, name: str, what: str) -> DataError:
        return DataError(
            what,
            where=self.folder.uri(name),
            mend="delete the folder and run its embed job again",
        )


def features_folder(name: str, storage: Storage) -> str:
    """Where the features are that a job calls by name, path or URI."""
    own = storage.sub("features", name)
    if "/" not in name and own.exists():
        return own.root
    if "/" not in name and not Storage(name).exists():
        raise RequestError(
            f"no features '{name}' in {storage.sub('features').root}",
            mend="there are: " + (", ".join(storage.folders("features")) or "none"),
        )
    return name
