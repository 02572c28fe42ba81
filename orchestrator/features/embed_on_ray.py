"""Units through Ray Data: one kind of task reads coded video, actors decode and encode it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
import torch
from ray.util.annotations import RayDeprecationWarning

from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed, OrchestratorError, RequestError
from orchestrator.features.embed_unit import EmbedTask, embed_unit
from orchestrator.features.store import EmbedUnitReport
from orchestrator.features.units import EmbedUnit, SegmentReader
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job.config.embed import EmbedScale
from orchestrator.unexpected import format_traceback, one_line
from orchestrator.units.ray_map import quiet_ray_data

UNITS_PER_DATASET = 2000
"""Units of one dataset of Ray Data, which keeps all its tasks in the object store."""

MAX_RESTARTS = 3
"""Ray Data would start an actor that dies again for ever."""

READ_TASKS_PER_ACTOR = 2
"""Reading tasks for each actor. They reserve no core: they wait for disks and networks."""


def embed_on_ray(
    task: EmbedTask,
    model: WorldModel,
    indexes: Sequence[DatasetIndex],
    units: list[EmbedUnit],
    scale: EmbedScale,
) -> Iterator[EmbedUnitReport]:
    """Reports as units finish, in any order. Inside a Ray session.

    Raises:
        RequestError: the cluster has no room for the actors.
        JobFailed: an actor died again and again.
    """
    workers, gpus = actor_resources(scale, ray.cluster_resources())
    shared, library = _ObjectStoreRef(model), _ObjectStoreRef(list(indexes))
    device = "cuda" if gpus else "cpu"
    with quiet_ray_data():
        for first in range(0, len(units), UNITS_PER_DATASET):
            some = units[first : first + UNITS_PER_DATASET]
            dataset = ray.data.from_items(
                [asdict(unit) for unit in some], override_num_blocks=len(some)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RayDeprecationWarning)
                dataset = dataset.map_batches(
                    _read_unit,
                    fn_kwargs={"indexes": library},
                    batch_size=None,
                    batch_format="pyarrow",
                    num_cpus=0,
                    concurrency=min(READ_TASKS_PER_ACTOR * workers, len(some)),
                    max_retries=MAX_RESTARTS,
                ).map_batches(
                    _EmbedActor,
                    fn_constructor_kwargs={"task": task, "model": shared, "device": device},
                    batch_size=None,
                    batch_format="pyarrow",
                    concurrency=workers,
                    num_cpus=scale.cpus,
                    num_gpus=gpus,
                    max_restarts=MAX_RESTARTS,
                    max_task_retries=MAX_RESTARTS,
                )
            # Without a target in bytes a unit is one block, whatever its size.
            dataset.context.target_max_block_size = None
            yield from _reports(dataset, task)


def actor_resources(scale: EmbedScale, cluster_resources: dict[str, float]) -> tuple[int, int]:
    """How many actors, and GPUs of each.

    Raises:
        RequestError: they do not fit. Ray Data would wait without a word.
    """
    cores, gpus = cluster_resources.get("CPU", 0.0), int(cluster_resources.get("GPU", 0))
    use_gpu = scale.device == "gpu" or (scale.device == "auto" and gpus > 0)
    fits = int(max(1.0, cores - 1) // scale.cpus)
    workers = scale.workers or (min(gpus, max(1, fits)) if use_gpu else max(1, fits))
    if 0 < cores < workers * scale.cpus:  # without any, nodes start when asked
        raise RequestError(
            f"{workers} actors with {scale.cpus:g} CPU cores each, the cluster has {cores:g}",
            where="scale.workers" if scale.workers else "scale.cpus",
            hint="lower scale.workers or scale.cpus",
        )
    if use_gpu and workers > gpus:
        raise RequestError(
            f"{workers} actors want a GPU each, the cluster has {gpus}",
            where="scale.device" if gpus == 0 else "scale.workers",
            hint="write scale.device=cpu" if gpus == 0 else f"set scale.workers={gpus}",
        )
    return workers, int(use_gpu)


def _reports(dataset: Any, task: EmbedTask) -> Iterator[EmbedUnitReport]:
    try:
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            for text in batch["report"]:
                yield EmbedUnitReport.decode(str(text))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(cause, OrchestratorError):
            raise cause from None
        raise JobFailed(
            f"embedding stopped: {one_line(error)}",
            where=task.folder.root,
            hint="is there memory enough (scale.batch, part_bytes)? What is committed is kept, and"
            " the same command continues",
            details=format_traceback(error),
        ) from error


class _ObjectStoreRef:
    """Something in the object store, fetched by the process that needs it."""

    def __init__(self, value: Any) -> None:
        self._ref = ray.put(value)

    @property
    def id(self) -> str:
        return str(self._ref.hex())

    def get(self) -> Any:
        return ray.get(self._ref)


_readers: dict[str, SegmentReader] = {}
"""This process's reader, with what it has open."""


def _read_unit(rows: pa.Table, indexes: _ObjectStoreRef) -> pa.Table:
    """A unit's segments, coded; the unit's number stands in each row."""
    (facts,) = rows.to_pylist()
    if indexes.id not in _readers:
        _readers.clear()  # an earlier job's, in a process that Ray uses again
        _readers[indexes.id] = SegmentReader(indexes.get())
    unit = EmbedUnit(**{key: int(value) for key, value in facts.items()})
    segments = _readers[indexes.id].read(unit)
    return segments.append_column("unit", pa.array([unit.id] * len(segments), pa.int64()))


class _EmbedActor:
    """Holds the model; one unit after the other."""

    def __init__(self, task: EmbedTask, model: _ObjectStoreRef, device: str) -> None:
        torch.set_num_threads(task.threads)
        self._task = task
        self._embedder = task.build_embedder(model.get(), in_subprocesses=True, device=device)

    def __call__(self, segments: pa.Table) -> pa.Table:
        unit = int(segments["unit"][0].as_py())
        report = embed_unit(self._task, self._embedder, unit, segments.drop(["unit"]))
        return pa.table({"report": [report.encode()]})
