"""`kind: embed`: open the data and the model, embed what is not yet, commit the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from orchestrator import __version__
from orchestrator.data.codec.decode import STILL_S
from orchestrator.data.packing.prepare import open_datasets
from orchestrator.data.store.index import Index
from orchestrator.errors import JobFailed, RequestError
from orchestrator.features.embed_unit import Task, run_unit
from orchestrator.features.embedder import Bad
from orchestrator.features.spec import Spec, identity_of, model_digest, shape_digest
from orchestrator.features.store import (
    BAD,
    CLAIM,
    COMPLETE,
    Report,
    claim,
    committed,
    complete,
    write_bad,
)
from orchestrator.features.units import Unit, UnitReader, plan_units
from orchestrator.jepa.model_files import WorldModel, load_folder, random_model
from orchestrator.job import EmbedJob, WeightedSource, job_dict
from orchestrator.job.config.embed import EmbedScale
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.storage.lease import leased
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.server import tracking_uri

LEASE = "embedding.json"
"""In the features' folder while a process makes them."""

NAMED = 5
"""Bad clips that an error names; the others stand in `bad.parquet`."""


@dataclass(frozen=True)
class Embedded:
    """What an embedding leaves."""

    uri: str
    facts: dict[str, Any]
    """`features.json`."""


def run_embed(job: EmbedJob, progress: Progress, *, local: bool) -> Embedded:
    """Write the features of the job's data to `features/NAME`; continues what was begun.

    `local`: one process, no Ray.

    Raises:
        RequestError: there is no such model or source, they do not fit, or other features stand
            under this name.
        JobFailed: too many clips are bad, or the storage failed; what is committed is kept.
    """
    storage = Storage(job.storage)
    folder = storage.sub("features", job.name)
    model, digest = _model_of(job, storage)
    spec = Spec.of(job, model)
    with nullcontext() if local else ray_session():
        indexes, quarantined = open_datasets(
            wanted_sources(job),
            job.data,
            spec.recipe.span,
            storage.sub("datasets"),
            progress,
            local,
        )
        for index in indexes:
            _refuse_all_short(index, spec)
        identity = identity_of(spec, digest, indexes)
        claim(folder, job.name, identity)
        doing = f"makes the features '{job.name}' too"
        made = partial(folder.exists, COMPLETE)
        with leased(folder, LEASE, doing, made, progress.message) as mine:
            if not mine:
                return Embedded(folder.root, folder.read_json(COMPLETE))
            threads = max(1, int(job.scale.cpus))
            about = {"name": job.name, "identity": identity}
            task = Task(folder, spec, about, job.scale.batch, threads)
            reports = _all_reports(job, task, model, indexes, progress, local=local)
            facts = _facts(job, folder, spec, model, digest, indexes, quarantined)
            return Embedded(folder.root, complete(folder, reports, facts))


def _facts(
    job: EmbedJob,
    folder: Storage,
    spec: Spec,
    model: WorldModel,
    digest: str,
    indexes: Sequence[Index],
    quarantined: int,
) -> dict[str, Any]:
    """What `features.json` says of where the features come from."""
    return {
        "name": job.name,
        "code": __version__,
        "identity": folder.read_json(CLAIM)["identity"],
        "model": {
            "uri": job.model,
            "digest": digest,
            "shape": shape_digest(model.config),
            "untrained": job.untrained,
        },
        "data": [
            {
                "source": source.uri,
                "uri": index.uri,
                "digest": index.digest,
                "segments": index.clips,
            }
            for source, index in zip(wanted_sources(job), indexes, strict=True)
        ],
        "quarantined": quarantined,
        "shape": list(spec.shape),
        "job": job_dict(job),
    }


def wanted_sources(job: EmbedJob) -> tuple[WeightedSource, ...]:
    """The sources of an embed job, one or several."""
    if job.data.source is not None:
        return (WeightedSource(uri=job.data.source),)
    return job.data.sources


def _model_of(job: EmbedJob, storage: Storage) -> tuple[WorldModel, str]:
    with model_folder(job.model, tracking=tracking_of(job.track.uri, job.model, storage)) as path:
        model = load_folder(path)
        digest = model_digest(path, model.config, job.untrained)
    if job.untrained is not None:
        model = random_model(model.config, job.untrained)
    return model, digest


def tracking_of(uri: str | None, model: str, storage: Storage) -> str | None:
    """Where a model is looked up; a folder is found without MLflow."""
    return tracking_uri(uri, storage) if model.startswith(("models:/", "runs:/")) else None


def _refuse_all_short(index: Index, spec: Spec) -> None:
    longest = index.durations()[1]
    if longest == STILL_S:
        raise RequestError(
            "it holds pictures, and features are made of video",
            where=index.uri,
            mend="name a folder of videos",
        )
    if longest <= spec.recipe.span:
        raise RequestError(
            f"a clip of {spec.recipe.frames} frames at {spec.recipe.fps:g} fps spans"
            f" {spec.recipe.span:.2f} s, but the longest segment lasts {longest:.2f} s",
            where=index.uri,
            mend="lower data.frames, raise data.fps, or raise data.encode.segment where the"
            " videos themselves are longer",
        )


def _all_reports(
    job: EmbedJob,
    task: Task,
    model: WorldModel,
    indexes: Sequence[Index],
    progress: Progress,
    *,
    local: bool,
) -> list[Report]:
    """The report of every unit; those that a manifest stands for are not done again."""
    units = plan_units(indexes, task.spec)
    total = sum(index.clips for index in indexes) * task.spec.recipe.clips
    tally = _Tally(job, task.folder, total, progress)
    try:
        for report in committed(task.folder, len(units)):
            tally.add(report)
        done = {report.unit for report in tally.reports}
        todo = [unit for unit in units if unit.number not in done]
        if todo:
            if local:
                work = _here(task, model, indexes, todo, _device(job.scale))
            else:
                from orchestrator.features.embed_on_ray import on_ray

                work = on_ray(task, model, indexes, todo, job.scale)
            for report in work:
                tally.add(report)
    except OSError as error:
        raise JobFailed(
            f"the storage cannot be read or written: {error}",
            where=task.folder.root,
            mend="mend the cause and run the same job again; what is committed is kept",
        ) from None
    if sum(report.rows for report in tally.reports) == 0:
        raise JobFailed(
            f"not one of {total} clips could be embedded: {_named(tally.bad)}",
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
            "there is no GPU on this machine", where="scale.device", mend="write scale.device=cpu"
        )
    return "cuda" if there and scale.device != "cpu" else "cpu"


def _here(
    task: Task, model: WorldModel, indexes: Sequence[Index], units: list[Unit], device: str
) -> Iterator[Report]:
    reader, embedder = UnitReader(indexes), task.embedder(model, isolated=False, device=device)
    try:
        for unit in units:
            yield run_unit(task, embedder, unit.number, reader.read(unit))
    finally:
        embedder.close()


class _Tally:
    """Counts what units report, shows it, and stops the job when too much is bad."""

    def __init__(self, job: EmbedJob, folder: Storage, total: int, progress: Progress) -> None:
        self._limit, self._folder, self._total = job.data.bad_limit, folder, total
        self._progress = progress
        self.reports: list[Report] = []
        self.bad: list[Bad] = []
        self._done, self._failed = 0, 0

    def add(self, report: Report) -> None:
        """Count one unit.

        Raises:
            JobFailed: the unit failed, or the bad share is over the limit.
        """
        if report.failure:
            raise JobFailed(
                f"embedding stopped: {report.failure}",
                where=self._folder.root,
                mend=f"{self._done} of {self._total} clips are done and kept; mend the cause and"
                " run the same job again to continue",
                details=report.details,
            )
        self.reports.append(report)
        self.bad += report.bad
        self._done += report.rows + len(report.bad)
        self._failed += sum(not one.short for one in report.bad)
        facts: dict[str, float | str] = {
            "failed": self._failed,
            "short": len(self.bad) - self._failed,
        }
        self._progress.update("embed", self._done, self._total, facts)
        if self._failed > self._limit * self._total + 1e-9:
            write_bad(self._folder, self.bad)
            raise JobFailed(
                f"{self._failed} of {self._total} clips cannot be used, more than data.bad_limit"
                f" {self._limit:g} allows: {_named([one for one in self.bad if not one.short])}",
                where=self._folder.root,
                mend="mend or remove them, or raise data.bad_limit; all so far are listed in"
                f" {self._folder.uri(BAD)}, and what is embedded is kept",
            )


def _named(bad: list[Bad]) -> str:
    lines = [f"{one.key} of {one.video or one.shard}: {one.reason}" for one in bad[:NAMED]]
    more = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    return "; ".join([*lines, *more])
