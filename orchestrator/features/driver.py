"""`kind: embed`: open the data and the model, embed what is not yet, commit the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from orchestrator.data.codec.decode import STILL_IMAGE_DURATION_S
from orchestrator.data.packing.prepare import open_datasets
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed, RequestError
from orchestrator.features.embed_unit import EmbedTask, embed_unit
from orchestrator.features.embedder import FailedClip
from orchestrator.features.spec import (
    EmbeddingSpec,
    architecture_digest,
    embedding_identity,
    model_digest,
)
from orchestrator.features.store import (
    FAILED_CLIPS_FILE,
    FEATURES_FILE,
    IDENTITY_FILE,
    EmbedUnitReport,
    claim_identity,
    finalize_features,
    read_committed_reports,
    write_failed_clips,
)
from orchestrator.features.units import EmbedUnit, SegmentReader, split_into_units
from orchestrator.jepa.model_files import WorldModel, load_folder, randomly_initialized_model
from orchestrator.job import EmbedJob, WeightedSource, job_dict
from orchestrator.job.config.embed import EmbedScale
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.storage.lease import lease
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.server import tracking_uri
from orchestrator.version import __version__

EMBEDDING_LEASE = "embedding.json"
"""In the features' folder while a process makes them."""

MAX_LISTED = 5
"""Bad clips that an error names; the others stand in `bad.parquet`."""


@dataclass(frozen=True)
class EmbedResult:
    """What an embedding leaves."""

    uri: str
    info: dict[str, Any]
    """`features.json`."""


def run_embed(job: EmbedJob, progress: Progress, *, local: bool) -> EmbedResult:
    """Write the features of the job's data to `features/NAME`; continues what was begun.

    `local`: one process, no Ray.

    Raises:
        RequestError: there is no such model or source, they do not fit, or other features stand
            under this name.
        JobFailed: too many clips are bad, or the storage failed; what is committed is kept.
    """
    storage = Storage(job.storage)
    folder = storage.subfolder("features", job.name)
    model, digest = _load_model(job, storage)
    spec = EmbeddingSpec.from_job(job, model)
    with nullcontext() if local else ray_session():
        indexes, quarantined = open_datasets(
            sources_of(job),
            job.data,
            spec.decode_config.span_s,
            storage.subfolder("datasets"),
            progress,
            local,
        )
        for index in indexes:
            _check_longest_segment(index, spec)
        identity = embedding_identity(spec, digest, indexes)
        claim_identity(folder, job.name, identity)
        doing = f"makes the features '{job.name}' too"
        made = partial(folder.exists, FEATURES_FILE)
        with lease(folder, EMBEDDING_LEASE, doing, made, progress.message) as mine:
            if not mine:
                return EmbedResult(folder.root, folder.read_json(FEATURES_FILE))
            threads = max(1, int(job.scale.cpus))
            about = {"name": job.name, "identity": identity}
            task = EmbedTask(folder, spec, about, job.scale.batch, threads)
            reports = _run_units(job, task, model, indexes, progress, local=local)
            facts = _features_info(job, folder, spec, model, digest, indexes, quarantined)
            return EmbedResult(folder.root, finalize_features(folder, reports, facts))


def _features_info(
    job: EmbedJob,
    folder: Storage,
    spec: EmbeddingSpec,
    model: WorldModel,
    digest: str,
    indexes: Sequence[DatasetIndex],
    quarantined: int,
) -> dict[str, Any]:
    """What `features.json` says of where the features come from."""
    return {
        "name": job.name,
        "code": __version__,
        "identity": folder.read_json(IDENTITY_FILE)["identity"],
        "model": {
            "uri": job.model,
            "digest": digest,
            "shape": architecture_digest(model.config),
            "untrained": job.random_init_seed,
        },
        "data": [
            {
                "source": source.uri,
                "uri": index.uri,
                "digest": index.digest,
                "segments": index.num_clips,
            }
            for source, index in zip(sources_of(job), indexes, strict=True)
        ],
        "quarantined": quarantined,
        "shape": list(spec.shape),
        "job": job_dict(job),
    }


def sources_of(job: EmbedJob) -> tuple[WeightedSource, ...]:
    """The sources of an embed job, one or several."""
    if job.data.source is not None:
        return (WeightedSource(uri=job.data.source),)
    return job.data.sources


def _load_model(job: EmbedJob, storage: Storage) -> tuple[WorldModel, str]:
    with model_folder(
        job.model, tracking_uri=tracking_uri_for(job.track.uri, job.model, storage)
    ) as path:
        model = load_folder(path)
        digest = model_digest(path, model.config, job.random_init_seed)
    if job.random_init_seed is not None:
        model = randomly_initialized_model(model.config, job.random_init_seed)
    return model, digest


def tracking_uri_for(uri: str | None, model: str, storage: Storage) -> str | None:
    """Where a model is looked up; a folder is found without MLflow."""
    return tracking_uri(uri, storage) if model.startswith(("models:/", "runs:/")) else None


def _check_longest_segment(index: DatasetIndex, spec: EmbeddingSpec) -> None:
    longest = index.duration_range()[1]
    if longest == STILL_IMAGE_DURATION_S:
        raise RequestError(
            "it holds pictures, and features are made of video",
            where=index.uri,
            hint="name a folder of videos",
        )
    if longest <= spec.decode_config.span_s:
        raise RequestError(
            f"a clip of {spec.decode_config.frames} frames at {spec.decode_config.fps:g} fps spans"
            f" {spec.decode_config.span_s:.2f} s, but the longest segment lasts {longest:.2f} s",
            where=index.uri,
            hint="lower data.frames, raise data.fps, or raise data.encode.segment where the"
            " videos themselves are longer",
        )


def _run_units(
    job: EmbedJob,
    task: EmbedTask,
    model: WorldModel,
    indexes: Sequence[DatasetIndex],
    progress: Progress,
    *,
    local: bool,
) -> list[EmbedUnitReport]:
    """The report of every unit; those that a manifest stands for are not done again."""
    units = split_into_units(indexes, task.spec)
    total = sum(index.num_clips for index in indexes) * task.spec.decode_config.clips_per_segment
    tally = _EmbedProgress(job, task.folder, total, progress)
    try:
        for report in read_committed_reports(task.folder, len(units)):
            tally.add(report)
        done = {report.unit for report in tally.reports}
        todo = [unit for unit in units if unit.id not in done]
        if todo:
            if local:
                work = _embed_in_process(task, model, indexes, todo, _device(job.scale))
            else:
                from orchestrator.features.embed_on_ray import embed_on_ray

                work = embed_on_ray(task, model, indexes, todo, job.scale)
            for report in work:
                tally.add(report)
    except OSError as error:
        raise JobFailed(
            f"the storage cannot be read or written: {error}",
            where=task.folder.root,
            hint="mend the cause and run the same job again; what is committed is kept",
        ) from None
    if sum(report.rows for report in tally.reports) == 0:
        raise JobFailed(
            f"not one of {total} clips could be embedded: {_list_failed(tally.failed_clips)}",
            where=task.folder.root,
        )
    return tally.reports


def _device(scale: EmbedScale) -> str:
    """Where this process computes.

    Raises:
        RequestError: it is to have a GPU, and there is none.
    """
    there = torch.cuda.is_available()
    if scale.device == "gpu" and not there:
        raise RequestError(
            "there is no GPU on this machine", where="scale.device", hint="write scale.device=cpu"
        )
    return "cuda" if there and scale.device != "cpu" else "cpu"


def _embed_in_process(
    task: EmbedTask,
    model: WorldModel,
    indexes: Sequence[DatasetIndex],
    units: list[EmbedUnit],
    device: str,
) -> Iterator[EmbedUnitReport]:
    reader, embedder = (
        SegmentReader(indexes),
        task.build_embedder(model, in_subprocesses=False, device=device),
    )
    try:
        for unit in units:
            yield embed_unit(task, embedder, unit.id, reader.read(unit))
    finally:
        embedder.close()


class _EmbedProgress:
    """Counts what units report, shows it, and stops the job when too much is bad."""

    def __init__(self, job: EmbedJob, folder: Storage, total: int, progress: Progress) -> None:
        self._limit, self._folder, self._total = job.data.bad_limit, folder, total
        self._progress = progress
        self.reports: list[EmbedUnitReport] = []
        self.failed_clips: list[FailedClip] = []
        self._done, self._failed = 0, 0

    def add(self, report: EmbedUnitReport) -> None:
        """Count one unit.

        Raises:
            JobFailed: the unit failed, or the bad share is over the limit.
        """
        if report.failure:
            raise JobFailed(
                f"embedding stopped: {report.failure}",
                where=self._folder.root,
                hint=f"{self._done} of {self._total} clips are done and kept; mend the cause and"
                " run the same job again to continue",
                details=report.details,
            )
        self.reports.append(report)
        self.failed_clips += report.bad
        self._done += report.rows + len(report.bad)
        self._failed += sum(not one.short for one in report.bad)
        facts: dict[str, float | str] = {
            "failed": self._failed,
            "short": len(self.failed_clips) - self._failed,
        }
        self._progress.update("embed", self._done, self._total, facts)
        if self._failed > self._limit * self._total + 1e-9:
            write_failed_clips(self._folder, self.failed_clips)
            unusable = [one for one in self.failed_clips if not one.short]
            raise JobFailed(
                f"{self._failed} of {self._total} clips cannot be used, more than data.bad_limit"
                f" {self._limit:g} allows: {_list_failed(unusable)}",
                where=self._folder.root,
                hint="mend or remove them, or raise data.bad_limit; all so far are listed in"
                f" {self._folder.uri(FAILED_CLIPS_FILE)}, and what is embedded is kept",
            )


def _list_failed(bad: list[FailedClip]) -> str:
    lines = [f"{one.key} of {one.video or one.shard}: {one.reason}" for one in bad[:MAX_LISTED]]
    more = [f"and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
    return "; ".join([*lines, *more])
