"""A packed dataset as an MLflow dataset: the run names its digest, its place and its size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import register_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, DatasetInput, InputTag

from orchestrator.storage import join_path

# MLflow's columns are this wide.
MAX_DIGEST = 36
MAX_NAME = 500


class PackedDataset(Protocol):
    """What tracking reads of a dataset (`orchestrator.data.store.index.DatasetIndex` is one)."""

    @property
    def uri(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def num_clips(self) -> int: ...
    @property
    def clips_per_shard(self) -> np.ndarray[Any, Any]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def num_bytes(self) -> int: ...


class PackedDatasetSource(DatasetSource):  # type: ignore[misc]  # mlflow has no types
    """Tars beside `index.parquet`, wherever they are."""

    def __init__(self, uri: str, digest: str, clips: int, shards: int) -> None:
        self.uri, self.digest, self.clips, self.shards = uri, digest, clips, shards

    @staticmethod
    def _get_source_type() -> str:
        return "orchestrator_index"

    def load(self) -> str:
        """The dataset's folder; `orchestrator.data.store.index.DatasetIndex.open` reads it."""
        return self.uri

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        # Only what a run recorded is an index; MLflow must not guess that a folder is one.
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> PackedDatasetSource:
        raise NotImplementedError("an index is recorded by a run, never guessed from a path")

    def to_dict(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "index": join_path(self.uri, "index.parquet"),
            "digest": self.digest,
            "clips": self.clips,
            "shards": self.shards,
        }

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> PackedDatasetSource:
        keys = ("uri", "digest", "clips", "shards")
        return cls(**{key: source_dict[key] for key in keys})


register_dataset_source(PackedDatasetSource)


def dataset_input(dataset: PackedDataset, name: str, context: str = "training") -> DatasetInput:
    """`dataset` as an input of a run; `name` is what a person calls it (its source)."""
    source = PackedDatasetSource(
        dataset.uri, dataset.digest, int(dataset.num_clips), len(dataset.clips_per_shard)
    )
    described = MetaDataset(source, name=name[:MAX_NAME], digest=dataset.digest[:MAX_DIGEST])
    profile = {
        "num_rows": int(dataset.num_clips),
        "shards": len(dataset.clips_per_shard),
        "hours": round(float(dataset.seconds) / 3600, 3),
        "megabytes": round(int(dataset.num_bytes) / 1e6, 1),
    }
    entity = Dataset(**described.to_dict(), profile=json.dumps(profile))
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", context)])


def dataset_inputs(datasets: Sequence[PackedDataset], names: Sequence[str]) -> list[DatasetInput]:
    """Inputs of a run, in the order of the job's sources."""
    return [dataset_input(data, name) for data, name in zip(datasets, names, strict=True)]
