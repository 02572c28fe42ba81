"""`kind: pack`: raw video into a dataset, a work unit per Ray Data task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from orchestrator.data.packing.dataset import (
    add_to_quarantine,
    dataset_folder,
    finalize_dataset,
    is_complete,
    read_manifests,
    remove_leftovers,
    summarize_rejected,
    write_quarantine,
)
from orchestrator.data.packing.unit import MANIFESTS_FOLDER, PackUnitReport, pack_unit
from orchestrator.data.sources.base import (
    AnySource,
    InPlaceSource,
    PackedSource,
    Rejected,
    ReportsSkippedInputs,
    Source,
    WorkUnit,
)
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import PackJob, TranscodeConfig
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.storage.lease import lease, try_lease

PACKING_LEASE = "packing.json"
"""In a dataset's folder while a process packs it."""


_SIMULATED_SCHEMES = ("physics://", "world://")
"""Sources whose clips are the same whatever version packed them."""


def run_pack(job: PackJob, progress: Progress, local: bool = False) -> list[DatasetIndex]:
    """Pack every source of the job into `datasets/DIGEST`; continues what was begun.

    `local`: one process, no Ray.

    Raises:
        RequestError: a source is not there or holds no video.
        JobFailed: the disk is full, or more inputs than `bad_limit` cannot be used; what is
            committed stays and is continued next time.
    """
    uris = [job.source] if job.source else [source.uri for source in job.sources]
    sources = [open_source(uri, job.videos_per_unit) for uri in uris]
    storage = Storage(job.storage).subfolder("datasets")
    limits = (job.bad_limit, job.cpus)
    return [
        pack_source(source, job.encode, storage, *limits, progress=progress, local=local)
        for source in sources
    ]


def pack_source(
    source: AnySource,
    encode: TranscodeConfig,
    datasets: Storage,
    bad_limit: float,
    cpus: float = 1.0,
    *,
    progress: Progress,
    local: bool = False,
) -> DatasetIndex:
    """The dataset of one source: opened where it is complete, otherwise made.

    Raises:
        RequestError: no input, or a task needs more cores than there are.
        JobFailed: see `run_pack`.
    """
    if isinstance(source, PackedSource):
        return DatasetIndex.open(source.uri)
    units = source.units()
    beside = _skipped_inputs(source, datasets)
    if not units:
        mend = summarize_rejected(beside) or "check the source"
        raise RequestError("the source has no inputs", where=source.uri, hint=mend)
    in_place = isinstance(source, InPlaceSource)
    storage, earlier = dataset_folder(datasets, source.uri, units, encode, in_place=in_place)
    if earlier and not source.uri.startswith(_SIMULATED_SCHEMES):
        progress.message(
            f"{source.uri} was packed by an earlier version, which read edit lists, mirrored videos"
            f" and uneven rates wrongly: delete {storage.root} to pack it again"
        )
    try:
        if is_complete(storage):
            return _open_complete(storage, source.uri, beside, progress)
        doing = f"packs {source.uri} too"
        with lease(
            storage, PACKING_LEASE, doing, lambda: is_complete(storage), progress.message
        ) as mine:
            if not mine:
                return DatasetIndex.open(storage.root)
            _report_skipped(progress, source.uri, beside)
            return _pack_units(
                storage, source, units, beside, encode, bad_limit, cpus, progress, local
            )
    except (OSError, JobFailed) as error:
        if is_complete(storage):
            # Another process took over the lease and was done first: its tidying ended this one.
            return DatasetIndex.open(storage.root)
        if isinstance(error, JobFailed):
            raise
        raise JobFailed(
            f"the storage cannot be read or written: {error}",
            where=storage.root,
            hint="mend the cause and run the same job again; what is committed is kept",
        ) from None


def _skipped_inputs(source: Source | InPlaceSource, datasets: Storage) -> list[Rejected]:
    """What a source leaves out, without the files of a storage that lies in its folder."""
    rows = source.left_out() if isinstance(source, ReportsSkippedInputs) else []
    storage = datasets.parent.root
    own = storage if storage.startswith(f"{source.uri}/") else datasets.root
    return [row for row in rows if not row.source.startswith(f"{own}/")]


def _report_skipped(progress: Progress, uri: str, rows: list[Rejected]) -> None:
    if rows:
        progress.message(
            f"not read of {uri} (see quarantine.parquet): {summarize_rejected(rows, 3)}"
        )


def _open_complete(
    storage: Storage, uri: str, skipped: list[Rejected], progress: Progress
) -> DatasetIndex:
    """A complete dataset, tidied where a process that completed it was killed before it could."""
    index = DatasetIndex.open(storage.root)
    if storage.is_dir(MANIFESTS_FOLDER):
        with try_lease(storage, PACKING_LEASE) as mine:
            if mine:
                remove_leftovers(storage, index)
    _report_skipped(progress, uri, add_to_quarantine(storage, skipped))
    return index


def _pack_units(
    storage: Storage,
    source: Source | InPlaceSource,
    units: list[WorkUnit],
    skipped: list[Rejected],
    encode: TranscodeConfig,
    bad_limit: float,
    cpus: float,
    progress: Progress,
    local: bool,
) -> DatasetIndex:
    """Do the units that no manifest stands for, then complete the dataset."""
    storage.mkdir()
    tally = _PackingProgress(source.uri, storage, units, skipped, bad_limit, progress)
    done = {e.path.rpartition("/")[2].removesuffix(".json") for e in _manifests(storage)}
    for manifest in read_manifests(storage, [unit.id for unit in units if unit.id in done]):
        tally.add(manifest.to_report())
    todo = [unit for unit in units if unit.id not in done]
    if todo:
        work = _pack_in_process(storage, source, todo, encode)
        if not local:
            from orchestrator.data.packing.pack_on_ray import pack_on_ray

            work = pack_on_ray(storage, source, todo, encode, cpus)
        for report in work:
            tally.add(report)
    return finalize_dataset(storage, source, units, encode, bad_limit, skipped)


class _PackingProgress:
    """Counts what units report, shows it, and stops the job when too much is bad."""

    def __init__(
        self,
        uri: str,
        storage: Storage,
        units: list[WorkUnit],
        skipped: list[Rejected],
        bad_limit: float,
        progress: Progress,
    ) -> None:
        """`beside`: what the source left out; with a share, inputs that are lost."""
        self._uri, self._storage, self._units = uri, storage, len(units)
        self._bad = math.fsum(row.share for row in skipped)
        self._done = math.ceil(self._bad)
        self._inputs = self._done + sum(len(unit.inputs) for unit in units)
        self._limit, self._progress = bad_limit, progress
        self._kept, self._clips, self._seconds = 0, 0, 0.0
        self._rejected = list(skipped)

    def add(self, report: PackUnitReport) -> None:
        """Count one unit.

        Raises:
            JobFailed: the unit failed, or the bad share is over the limit.
        """
        if report.failure:
            raise JobFailed(
                f"packing stopped: {report.failure}",
                where=self._uri,
                hint=f"{self._kept} of {self._units} units are kept in {self._storage.root};"
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
                f" {self._limit:g} allows: {summarize_rejected(self._rejected)}",
                where=self._uri,
                hint="mend or remove them, or raise bad_limit; all are listed in"
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
    return [e for e in storage.files(MANIFESTS_FOLDER) if e.path.endswith(".json")]


def _pack_in_process(
    storage: Storage, source: Source | InPlaceSource, units: list[WorkUnit], encode: TranscodeConfig
) -> Iterator[PackUnitReport]:
    for unit in units:
        yield pack_unit(storage, source, unit, encode)
