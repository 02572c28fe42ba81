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

from orchestrator.data.store.index import Index
from orchestrator.errors import JobFailed, OrchestratorError, RequestError
from orchestrator.features.embed_unit import Task, run_unit
from orchestrator.features.store import Report
from orchestrator.features.units import Unit, UnitReader
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job.config.embed import EmbedScale
from orchestrator.unexpected import one_line, traceback_of
from orchestrator.units.ray_map import quiet

UNITS_AT_ONCE = 2000
"""Units of one dataset of Ray Data, which keeps all its tasks in the object store."""

RESTARTS = 3
"""Ray Data would start an actor that dies again for ever."""

READERS = 2
"""Reading tasks for each actor. They reserve no core: they wait for disks and networks."""


def on_ray(
    task: Task, model: WorldModel, indexes: Sequence[Index], units: list[Unit], scale: EmbedScale
) -> Iterator[Report]:
    """Reports as units finish, in any order. Inside a Ray session.

    Raises:
        RequestError: the cluster has no room for the actors.
        JobFailed: an actor died again and again.
    """
    workers, gpus = place(scale, ray.cluster_resources())
    shared, library = _Shared(model), _Shared(list(indexes))
    device = "cuda" if gpus else "cpu"
    with quiet():
        for first in range(0, len(units), UNITS_AT_ONCE):
            some = units[first : first + UNITS_AT_ONCE]
            dataset = ray.data.from_items(
                [asdict(unit) for unit in some], override_num_blocks=len(some)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RayDeprecationWarning)
                dataset = dataset.map_batches(
                    _read,
                    fn_kwargs={"library": library},
                    batch_size=None,
                    batch_format="pyarrow",
                    num_cpus=0,
                    concurrency=min(READERS * workers, len(some)),
                    max_retries=RESTARTS,
                ).map_batches(
                    _Actor,
                    fn_constructor_kwargs={"task": task, "model": shared, "device": device},
                    batch_size=None,
                    batch_format="pyarrow",
                    concurrency=workers,
                    num_cpus=scale.cpus,
                    num_gpus=gpus,
                    max_restarts=RESTARTS,
                    max_task_retries=RESTARTS,
                )
            # Without a target in bytes a unit is one block, whatever its size.
            dataset.context.target_max_block_size = None
            yield from _reports(dataset, task)


def place(scale: EmbedScale, there: dict[str, float]) -> tuple[int, int]:
    """How many actors, and GPUs of each.

    Raises:
        RequestError: they do not fit. Ray Data would wait without a word.
    """
    cores, gpus = there.get("CPU", 0.0), int(there.get("GPU", 0))
    use_gpu = scale.device == "gpu" or (scale.device == "auto" and gpus > 0)
    fits = int(max(1.0, cores - 1) // scale.cpus)
    workers = scale.workers or (min(gpus, max(1, fits)) if use_gpu else max(1, fits))
    if 0 < cores < workers * scale.cpus:  # without any, nodes start when asked
        raise RequestError(
            f"{workers} actors with {scale.cpus:g} CPU cores each, the cluster has {cores:g}",
            where="scale.workers" if scale.workers else "scale.cpus",
            mend="lower scale.workers or scale.cpus",
        )
    if use_gpu and workers > gpus:
        raise RequestError(
            f"{workers} actors want a GPU each, the cluster has {gpus}",
            where="scale.device" if gpus == 0 else "scale.workers",
            mend="write scale.device=cpu" if gpus == 0 else f"set scale.workers={gpus}",
        )
    return workers, int(use_gpu)


def _reports(dataset: Any, task: Task) -> Iterator[Report]:
    try:
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            for text in batch["report"]:
                yield Report.decode(str(text))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(cause, OrchestratorError):
            raise cause from None
        raise JobFailed(
            f"embedding stopped: {one_line(error)}",
            where=task.folder.root,
            mend="is there memory enough (scale.batch, part_bytes)? What is committed is kept, and"
            " the same command continues",
            details=traceback_of(error),
        ) from error


class _Shared:
    """Something in the object store, fetched by the process that needs it."""

    def __init__(self, value: Any) -> None:
        self._ref = ray.put(value)

    @property
    def name(self) -> str:
        return str(self._ref.hex())

    def get(self) -> Any:
        return ray.get(self._ref)


_readers: dict[str, UnitReader] = {}
"""This process's reader, with what it has open."""


def _read(rows: pa.Table, library: _Shared) -> pa.Table:
    """A unit's segments, coded; the unit's number stands in each row."""
    (facts,) = rows.to_pylist()
    if library.name not in _readers:
        _readers.clear()  # an earlier job's, in a process that Ray uses again
        _readers[library.name] = UnitReader(library.get())
    unit = Unit(**{key: int(value) for key, value in facts.items()})
    segments = _readers[library.name].read(unit)
    return segments.append_column("unit", pa.array([unit.number] * len(segments), pa.int64()))


class _Actor:
    """Holds the model; one unit after the other."""

    def __init__(self, task: Task, model: _Shared, device: str) -> None:
        torch.set_num_threads(task.threads)
        self._task = task
        self._embedder = task.embedder(model.get(), isolated=True, device=device)

    def __call__(self, segments: pa.Table) -> pa.Table:
        unit = int(segments["unit"][0].as_py())
        report = run_unit(self._task, self._embedder, unit, segments.drop(["unit"]))
        return pa.table({"report": [report.encode()]})
