"""From a job file and KEY=VALUE overrides to a checked job, with errors that name the line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import RequestError, suggest
from orchestrator.job.config.embed import EmbedJob
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.pack import PackJob
from orchestrator.job.config.pipeline import PipelineJob
from orchestrator.job.config.promote import PromoteJob
from orchestrator.job.config.study import StudyJob
from orchestrator.job.config.train import TrainJob
from orchestrator.job.config.tune import TuneJob
from orchestrator.job.loading.custom_components import check_parts
from orchestrator.job.loading.includes import (
    entries_within,
    read_within,
    spots_within,
    stages_within,
)
from orchestrator.job.loading.validation_errors import Spots, explain
from orchestrator.job.loading.yaml_source import apply_override, parse_yaml, read_text
from orchestrator.job.search_space import check_space

Job = PackJob | TrainJob | EmbedJob | EvaluateJob | StudyJob | TuneJob | PipelineJob | PromoteJob
KINDS: dict[str, type[Job]] = {
    "pack": PackJob,
    "train": TrainJob,
    "embed": EmbedJob,
    "evaluate": EvaluateJob,
    "study": StudyJob,
    "tune": TuneJob,
    "pipeline": PipelineJob,
    "promote": PromoteJob,
}


def load_job(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Job:
    """Read a job file, apply overrides (`scale.workers=4`), and check every key and value.

    Raises:
        RequestError: one line per mistake, with file, line and a suggestion.
    """
    path = Path(path)
    data, spots = parse_yaml(read_text(path), str(path))
    return build_job(data, overrides, where=str(path), spots=spots)


def build_job(
    data: Any,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    where: str = "job",
    spots: Spots | None = None,
) -> Job:
    """A checked job from plain data (what YAML or an MLflow run holds).

    Raises:
        RequestError: one line per mistake, with the place of the key and a suggestion.
    """
    if not isinstance(data, dict):
        what = "the file is empty" if data is None else f"a job is no {type(data).__name__}"
        raise RequestError(
            what,
            where=where,
            mend="a job is a mapping with a 'kind': orchestrator jobs schema train",
        )
    data, spots = copy.deepcopy(data), dict(spots or {})
    read_within(data, spots)
    for override in overrides:
        apply_override(data, override, spots)
    read_within(data, spots)
    if "kind" not in data:
        raise RequestError("'kind' is missing", where=where, mend=f"add one of: {', '.join(KINDS)}")
    kind = str(data["kind"])
    if kind not in KINDS:
        raise RequestError(
            f"unknown job kind '{kind}'",
            where=spots.get(("kind",), where),
            mend=suggest(kind, list(KINDS)),
        )
    _build_within(data, spots, where)
    mend = f"every key, its unit and default: orchestrator jobs schema {kind}"
    try:
        job = KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise explain(error, KINDS[kind], data, where, spots, mend) from None
    check_parts(job)
    if isinstance(job, TuneJob):
        check_space(job, spots, where, build_job)
    return job


def _build_within(data: dict[str, Any], spots: Spots, where: str) -> None:
    """Check the jobs inside a job as if each were run by itself, and put them in their places."""
    if data["kind"] == "tune" and isinstance(data.get("train"), dict):
        data["train"] = _train_within(data["train"], data, spots, where)
    for i, stage in stages_within(data):
        if isinstance(stage.get("job"), dict):
            stage["job"] = _stage_within(stage, ("stages", i, "job"), data, spots, where)
    for i, entry in entries_within(data):
        job = entry.get("job")
        if not isinstance(job, dict):
            continue  # the schema says what is wrong with it
        spot = spots.get(("evaluate", i, "job"), where)
        kind = job.setdefault("kind", "evaluate")
        if kind != "evaluate":
            raise RequestError(
                f"evaluate.{i}.job is of kind '{kind}'",
                where=spots.get(("evaluate", i, "job", "kind"), spot),
                mend="name a job of kind evaluate, such as jobs/physics/evaluate.yaml",
            )
        job.setdefault("model", "checkpoint")  # of the training; a job of its own must name one
        entry["job"] = build_job(job, where=spot, spots=spots_within(spots, ("evaluate", i, "job")))


def _train_within(
    train: dict[str, Any], sweep: dict[str, Any], spots: Spots, where: str
) -> TrainJob:
    """The training that a sweep varies; it needs neither kind nor name."""
    spot = spots.get(("train",), where)
    kind = train.setdefault("kind", "train")
    if kind != "train":
        raise RequestError(
            f"train is of kind '{kind}'",
            where=spots.get(("train", "kind"), spot),
            mend="name a job of kind train, such as jobs/physics/quick.yaml",
        )
    train.setdefault("name", sweep.get("name", "trial"))
    job = build_job(train, where=spot, spots=spots_within(spots, ("train",)))
    assert isinstance(job, TrainJob)
    return job


def _stage_within(
    stage: dict[str, Any],
    here: tuple[str | int, ...],
    row: dict[str, Any],
    spots: Spots,
    where: str,
) -> Job:
    """A stage's job, under the pipeline's name and storage, and remembered where that is."""
    spot, job = spots.get(here, where), dict(stage["job"])
    kind = job.get("kind")
    if kind not in KINDS or kind == "pipeline":
        known = [name for name in KINDS if name != "pipeline"]
        what = "itself a pipeline" if kind == "pipeline" else f"of unknown kind '{kind}'"
        raise RequestError(
            f"the job of stage '{stage.get('name')}' is {what}",
            where=spots.get((*here, "kind"), spot),
            mend=suggest(str(kind), known),
        )
    job["name"] = f"{row.get('name')}.{stage.get('name')}"
    job.pop("storage", None)
    if "storage" in row:
        job["storage"] = row["storage"]
    if kind == "tune":
        if isinstance(job.get("train"), dict):
            job["train"] = {**job["train"], "track": _tracked(job["train"], row)}
    elif kind != "pack":
        job["track"] = _tracked(job, row)
        if kind == "embed":
            job["track"].pop("experiment", None)
    return build_job(job, where=spot, spots=spots_within(spots, here))


def _tracked(job: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The `track` of a stage's job, with the server and the experiment of its pipeline."""
    given, theirs = row.get("track"), job.get("track")
    whole: dict[str, Any] = given if isinstance(given, dict) else {}
    kept: dict[str, Any] = dict(theirs) if isinstance(theirs, dict) else {}
    kept.pop("uri", None)
    taken = {"experiment": whole.get("experiment", "default")}
    return kept | taken | ({"uri": whole["uri"]} if "uri" in whole else {})
