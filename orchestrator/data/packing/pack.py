"""`kind: pack`: raw video into a dataset, a work unit per Ray Data task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from orchestrator.data.packing.dataset import (
    add_to_quarantine,
    complete,
    dataset_folder,
    first_reasons,
    is_complete,
    read_manifests,
    tidy,
    write_quarantine,
)
from orchestrator.data.packing.unit import UNITS, Report, run_unit
from orchestrator.data.sources.base import (
    AnySource,
    InPlaceSource,
    LeavesOut,
    PackedSource,
    Rejected,
    Source,
    WorkUnit,
    open_source,
)
from orchestrator.data.store.index import Index
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import Encode, PackJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.storage.lease import leased, leased_if_free

LEASE = "packing.json"
"""In a dataset's folder while a process packs it."""


_SIMULATED = ("physics://", "world://")
"""Sources whose clips are the same whatever version packed them."""


def run_pack(job: PackJob, progress: Progress, local: bool = False) -> list[Index]:
    """Pack every source of the job into `datasets/DIGEST`; continues what was begun.

    `local`: one process, no Ray.

    Raises:
        RequestError: a source is not there or holds no video.
        JobFailed: the disk is full, or more inputs than `bad_limit` cannot be used; what is
            committed stays and is continued next time.
    """
    uris = [job.source] if job.source else [source.uri for source in job.sources]
    sources = [open_source(uri, job.unit) for uri in uris]
    storage = Storage(job.storage).sub("datasets")
    limits = (job.bad_limit, job.cpus)
    return [
        pack_source(source, job.encode, storage, *limits, progress=progress, local=local)
        for source in sources
    ]


def pack_source(
    source: AnySource,
    encode: Encode,
    datasets: Storage,
    bad_limit: float,
    cpus: float = 1.0,
    *,
    progress: Progress,
    local: bool = False,
) -> Index:
    """The dataset of one source: opened where it is complete, otherwise made.

    Raises:
        RequestError: no input, or a task needs more cores than there are.
        JobFailed: see `run_pack`.
    """
    if isinstance(source, PackedSource):
        return Index.open(source.uri)
    units = source.units()
    beside = _left_out(source, datasets)
    if not units:
        mend = first_reasons(beside) or "check the source"
        raise RequestError("the source has no inputs", where=source.uri, mend=mend)
    in_place = isinstance(source, InPlaceSource)
    storage, earlier = dataset_folder(datasets, source.uri, units, encode, in_place=in_place)
    if earlier and not source.uri.startswith(_SIMULATED):
        progress.message(
            f"{source.uri} was packed by an earlier version, which read edit lists, mirrored videos"
            f" and uneven rates wrongly: delete {storage.root} to pack it again"
        )
    try:
        if is_complete(storage):
            return _opened(storage, source.uri, beside, progress)
        doing = f"packs {source.uri} too"
        with leased(storage, LEASE, doing, lambda: is_complete(storage), progress.message) as mine:
            if not mine:
                return Index.open(storage.root)
            _tell(progress, source.uri, beside)
            return _make(storage, source, units, beside, encode, bad_limit, cpus, progress, local)
    except (OSError, JobFailed) as error:
        if is_complete(storage):
            # Another process took over the lease and was done first: its tidying ended this one.
            return Index.open(storage.root)
        if isinstance(error, JobFailed):
            raise
        raise JobFailed(
            f"the storage cannot be read or written: {error}",
            where=storage.root,
            mend="mend the cause and run the same job again; what is committed is kept",
        ) from None


def _left_out(source: Source | InPlaceSource, datasets: Storage) -> list[Rejected]:
    """What a source leaves out, without the files of a storage that lies in its folder."""
    rows = source.left_out() if isinstance(source, LeavesOut) else []
    storage = datasets.parent.root
    own = storage if storage.startswith(f"{source.uri}/") else datasets.root
    return [row for row in rows if not row.source.startswith(f"{own}/")]


def _tell(progress: Progress, uri: str, rows: list[Rejected]) -> None:
    if rows:
        progress.message(f"not read of {uri} (see quarantine.parquet): {first_reasons(rows, 3)}")


def _opened(storage: Storage, uri: str, beside: list[Rejected], progress: Progress) -> Index:
    """A complete dataset, tidied where a process that completed it was killed before it could."""
    index = Index.open(storage.root)
    if storage.is_dir(UNITS):
        with leased_if_free(storage, LEASE) as mine:
            if mine:
                tidy(storage, index)
    _tell(progress, uri, add_to_quarantine(storage, beside))
    return index


def _make(
    storage: Storage,
    source: Source | InPlaceSource,
    units: list[WorkUnit],
    beside: list[Rejected],
    encode: Encode,
    bad_limit: float,
    cpus: float,
    progress: Progress,
    local: bool,
) -> Index:
    """Do the units that no manifest stands for, then complete the dataset."""
    storage.mkdir()
    tally = _Tally(source.uri, storage, units, beside, bad_limit, progress)
    done = {e.path.rpartition("/")[2].removesuffix(".json") for e in _manifests(storage)}
    for manifest in read_manifests(storage, [unit.id for unit in units if unit.id in done]):
        tally.add(manifest.report())
    todo = [unit for unit in units if unit.id not in done]
    if todo:
        work = _here(storage, source, todo, encode)
        if not local:
            from orchestrator.units.ray_map import on_ray

            work = on_ray(storage, source, todo, encode, cpus)
        for report in work:
            tally.add(report)
    return complete(storage, source, units, encode, bad_limit, beside)


class _Tally:
    """Counts what units report, shows it, and stops the job when too much is bad."""

    def __init__(
        self,
        uri: str,
        storage: Storage,
        units: list[WorkUnit],
        beside: list[Rejected],
        bad_limit: float,
        progress: Progress,
    ) -> None:
        """`beside`: what the source left out; with a share, inputs that are lost."""
        self._uri, self._storage, self._units = uri, storage, len(units)
        self._bad = math.fsum(row.share for row in beside)
        self._done = math.ceil(self._bad)
        self._inputs = self._done + sum(len(unit.inputs) for unit in units)
        self._limit, self._progress = bad_limit, progress
        self._kept, self._clips, self._seconds = 0, 0, 0.0
        self._rejected = list(beside)

    def add(self, report: Report) -> None:
        """Count one unit.

        Raises:
            JobFailed: the unit failed, or the bad share is over the limit.
        """
        if report.failure:
            raise JobFailed(
                f"packing stopped: {report.failure}",
                where=self._uri,
                mend=f"{self._kept} of {self._units} units are kept in {self._storage.root};"
                " mend the cause and run the same job again to continue",
                details=report.details,
            )
        self._kept += 1
        self._done += report.inputs
        self._clips += report.clips
        self._seconds += report.seconds
        self._rejected += report.rejected
        self._bad += math.fsum(row.share for row in report.rejected)
        self._show()
        if self._bad > self._limit * self._inputs + 1e-9:
            write_quarantine(self._storage, self._rejected)
            raise JobFailed(
                f"{self._bad:.3g} of {self._inputs} inputs cannot be used, more than bad_limit"
                f" {self._limit:g} allows: {first_reasons(self._rejected)}",
                where=self._uri,
                mend="mend or remove them, or raise bad_limit; all are listed in"
                f" {self._storage.uri('quarantine.parquet')}, and what is packed is kept",
            )

    def _show(self) -> None:
        facts: dict[str, float | str] = {
            "clips": self._clips,
            "hours": round(self._seconds / 3600, 3),
            "quarantined": len(self._rejected),
        }
        self._progress.update("pack", self._done, self._inputs, facts)


def _manifests(storage: Storage) -> list[Any]:
    return [e for e in storage.files(UNITS) if e.path.endswith(".json")]


def _here(
    storage: Storage, source: Source | InPlaceSource, units: list[WorkUnit], encode: Encode
) -> Iterator[Report]:
    for unit in units:
        yield run_unit(storage, source, unit, encode)
