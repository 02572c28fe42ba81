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
from orchestrator.features.store import (
    FAILED_CLIPS_FILE,
    FEATURES_FILE,
    IDENTITY_FILE,
    METADATA_KEY,
)
from orchestrator.storage import Storage


class Features:
    """The features that an `embed` job has written.

    `facts` is features.json; `rows` the number of clips; `shape` that of a clip's features;
    `grid` its tokens along time, height and width; `model` and `data` their digests.
    """

    def __init__(self, folder: Storage, facts: dict[str, Any]) -> None:
        self.folder, self.info = folder, facts
        self.identity: dict[str, Any] = facts["identity"]
        self.num_rows = int(facts["rows"])
        self.shape: tuple[int, ...] = tuple(facts["shape"])
        self.grid: tuple[int, int, int] = tuple(self.identity["grid"])
        self.pooling = str(self.identity["pooling"])
        self.digest = str(facts["digest"])
        self.model_digest = str(facts["model"]["digest"])
        self.data_digests = [str(one["digest"]) for one in facts["data"]]

    @classmethod
    def open(
        cls, uri: str, *, model: str | None = None, data: Sequence[str] | None = None
    ) -> Features:
        """The features in a folder.

        Args:
            uri: a path or URI.
            model, data: digests (16 hex digits) that they must be of.

        Raises:
            RequestError: nothing is there, it is not finished, or it is of another model or of
                other data.
        """
        folder = Storage(uri)
        if not folder.exists(FEATURES_FILE):
            begun = folder.exists(IDENTITY_FILE)
            raise RequestError(
                "these features are not finished" if begun else "no features here",
                where=folder.root,
                hint="run their embed job again: it continues"
                if begun
                else "name a folder that `kind: embed` has written",
            )
        found = cls(folder, folder.read_json(FEATURES_FILE))
        if model is not None and model != found.model_digest:
            raise RequestError(
                f"these features are of another model: of {found.model_digest} ({found.model_uri}),"
                f" not of {model}",
                where=folder.root,
                hint="embed with that model under a name of its own",
            )
        if data is not None and list(data) != found.data_digests:
            raise RequestError(
                f"these features are of other data: of {', '.join(found.data_digests)}, not of"
                f" {', '.join(data)}",
                where=folder.root,
                hint="embed that data under a name of its own",
            )
        return found

    def __repr__(self) -> str:
        return f"Features({self.folder.root!r}, rows={self.num_rows}, shape={list(self.shape)})"

    @property
    def model_uri(self) -> str:
        """What the embed job called the model."""
        seed = self.info["model"]["untrained"]
        uri = str(self.info["model"]["uri"])
        return uri if seed is None else f"untrained {seed} of {uri}"

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a file at a time; every file is compared with its hash.

        Raises:
            DataError: a file is gone, or is not the one that was committed.
        """
        for part in self.info["parts"]:
            try:
                data = self.folder.read_bytes(part["file"])
            except OSError as error:
                raise self._damaged(part["file"], f"cannot be read: {error}") from None
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise self._damaged(part["file"], "is not what was committed (sha256 differs)")
            file = pq.ParquetFile(pa.BufferReader(data))
            about = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
            if about.get("identity") != self.identity:
                raise self._damaged(part["file"], "belongs to other features")
            yield file.read(columns=None if columns is None else list(columns))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, in order."""
        return pa.concat_tables(self.tables(columns))

    def array(self, file: Path | None = None) -> np.ndarray:
        """All features, [rows, *shape] in the stored type.

        Args:
            file: where the array is kept, mapped into memory: features may be larger than that.
        """
        kind = np.dtype(str(self.identity["dtype"]))
        whole = (self.num_rows, *self.shape)
        out: np.ndarray
        if file is None:
            out = np.empty(whole, kind)
        else:
            out = np.lib.format.open_memmap(file, "w+", kind, whole)
        at = 0
        for part in self.tables(["features"]):
            for chunk in part["features"].chunks:
                out[at : at + len(chunk)] = chunk.to_numpy_ndarray()
                at += len(chunk)
        return out

    def failed_clips(self) -> list[dict[str, Any]]:
        """The clips that have no features: key, clip, shard, video, reason, short."""
        table = pq.read_table(pa.BufferReader(self.folder.read_bytes(FAILED_CLIPS_FILE)))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _damaged(self, name: str, what: str) -> DataError:
        return DataError(
            what,
            where=self.folder.uri(name),
            hint="delete the folder and run its embed job again",
        )


def resolve_features_folder(name: str, storage: Storage) -> str:
    """Where the features are that a job calls by name, path or URI."""
    own = storage.subfolder("features", name)
    if "/" not in name and own.exists():
        return own.root
    if "/" not in name and not Storage(name).exists():
        raise RequestError(
            f"no features '{name}' in {storage.subfolder('features').root}",
            hint="there are: " + (", ".join(storage.folders("features")) or "none"),
        )
    return name
