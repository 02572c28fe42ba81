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
from orchestrator.job.loading.custom_components import check_components
from orchestrator.job.loading.former_keys import rename_former_keys
from orchestrator.job.loading.includes import (
    evaluate_entries,
    locations_below,
    pipeline_stage_entries,
    resolve_includes,
)
from orchestrator.job.loading.search_space import check_space
from orchestrator.job.loading.validation_errors import SourceLocations, validation_request_error
from orchestrator.job.loading.yaml_source import apply_override, parse_yaml, read_text

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
    return build_job(data, overrides, source=str(path), locations=spots)


def build_job(
    data: Any,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    source: str = "job",
    locations: SourceLocations | None = None,
) -> Job:
    """A checked job from plain data (what YAML or an MLflow run holds).

    Raises:
        RequestError: one line per mistake, with the place of the key and a suggestion.
    """
    if not isinstance(data, dict):
        what = "the file is empty" if data is None else f"a job is no {type(data).__name__}"
        raise RequestError(
            what,
            where=source,
            hint="a job is a mapping with a 'kind': orchestrator jobs schema train",
        )
    data, locations = copy.deepcopy(data), dict(locations or {})
    resolve_includes(data, locations)
    model = KINDS.get(str(data.get("kind")))
    if model is not None:
        rename_former_keys(data, model, locations)
    for override in overrides:
        apply_override(data, override, locations)
        if model is not None:
            rename_former_keys(data, model, locations)
    resolve_includes(data, locations)
    if "kind" not in data:
        raise RequestError(
            "'kind' is missing", where=source, hint=f"add one of: {', '.join(KINDS)}"
        )
    kind = str(data["kind"])
    if kind not in KINDS:
        raise RequestError(
            f"unknown job kind '{kind}'",
            where=locations.get(("kind",), source),
            hint=suggest(kind, list(KINDS)),
        )
    _build_nested_jobs(data, locations, source)
    mend = f"every key, its unit and default: orchestrator jobs schema {kind}"
    try:
        job = KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise validation_request_error(error, KINDS[kind], data, source, locations, mend) from None
    check_components(job)
    if isinstance(job, TuneJob):
        check_space(job, locations, source, build_job)
    return job


def _build_nested_jobs(data: dict[str, Any], spots: SourceLocations, where: str) -> None:
    """Check the jobs inside a job as if each were run by itself, and put them in their places."""
    if data["kind"] == "tune" and isinstance(data.get("train"), dict):
        data["train"] = _build_sweep_train_job(data["train"], data, spots, where)
    for i, stage in pipeline_stage_entries(data):
        if isinstance(stage.get("job"), dict):
            stage["job"] = _build_stage_job(stage, ("stages", i, "job"), data, spots, where)
    for i, entry in evaluate_entries(data):
        job = entry.get("job")
        if not isinstance(job, dict):
            continue  # the schema says what is wrong with it
        spot = spots.get(("evaluate", i, "job"), where)
        kind = job.setdefault("kind", "evaluate")
        if kind != "evaluate":
            raise RequestError(
                f"evaluate.{i}.job is of kind '{kind}'",
                where=spots.get(("evaluate", i, "job", "kind"), spot),
                hint="name a job of kind evaluate, such as jobs/physics/evaluate.yaml",
            )
        job.setdefault("model", "checkpoint")  # of the training; a job of its own must name one
        entry["job"] = build_job(
            job, source=spot, locations=locations_below(spots, ("evaluate", i, "job"))
        )


def _build_sweep_train_job(
    train: dict[str, Any], sweep: dict[str, Any], spots: SourceLocations, where: str
) -> TrainJob:
    """The training that a sweep varies; it needs neither kind nor name."""
    spot = spots.get(("train",), where)
    kind = train.setdefault("kind", "train")
    if kind != "train":
        raise RequestError(
            f"train is of kind '{kind}'",
            where=spots.get(("train", "kind"), spot),
            hint="name a job of kind train, such as jobs/physics/quick.yaml",
        )
    train.setdefault("name", sweep.get("name", "trial"))
    job = build_job(train, source=spot, locations=locations_below(spots, ("train",)))
    assert isinstance(job, TrainJob)
    return job


def _build_stage_job(
    stage: dict[str, Any],
    here: tuple[str | int, ...],
    pipeline: dict[str, Any],
    spots: SourceLocations,
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
            hint=suggest(str(kind), known),
        )
    job["name"] = f"{pipeline.get('name')}.{stage.get('name')}"
    job.pop("storage", None)
    if "storage" in pipeline:
        job["storage"] = pipeline["storage"]
    if kind == "tune":
        if isinstance(job.get("train"), dict):
            job["train"] = {
                **job["train"],
                "track": _with_pipeline_tracking(job["train"], pipeline),
            }
    elif kind != "pack":
        job["track"] = _with_pipeline_tracking(job, pipeline)
        if kind == "embed":
            job["track"].pop("experiment", None)
    return build_job(job, source=spot, locations=locations_below(spots, here))


def _with_pipeline_tracking(job: dict[str, Any], pipeline: dict[str, Any]) -> dict[str, Any]:
    """The `track` of a stage's job, with the server and the experiment of its pipeline."""
    given, theirs = pipeline.get("track"), job.get("track")
    whole: dict[str, Any] = given if isinstance(given, dict) else {}
    kept: dict[str, Any] = dict(theirs) if isinstance(theirs, dict) else {}
    kept.pop("uri", None)
    taken = {"experiment": whole.get("experiment", "default")}
    return kept | taken | ({"uri": whole["uri"]} if "uri" in whole else {})
