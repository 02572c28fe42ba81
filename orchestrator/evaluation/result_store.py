"""The result of an evaluation: measured once, kept in the storage, and then told to MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.job import EvaluateJob
from orchestrator.job.config.former_names import former_dump
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import REPORT_FILE, SCORES_FILE, SUMMARY_FILE
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import require_usable, tracking_uri

PENDING_UPLOAD = "unsent.json"
"""In an evaluation's folder while MLflow lacks the result: the job that it is of."""


@dataclass(frozen=True)
class SavedEvaluation:
    """What an evaluation leaves."""

    summary: dict[str, Any]
    mlflow_run: RunRef
    report_uri: str
    """Path or URI of the page."""


class EvaluationResultLike(Protocol):
    """What an evaluation has found."""

    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def scores(self) -> dict[str, Any]: ...
    @property
    def report_html(self) -> str: ...


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation has found, in the storage or about to be."""

    summary: dict[str, Any]
    scores: dict[str, Any]
    """Case by case; empty where a kind of evaluation keeps none."""

    report_html: str
    """The report, HTML."""


def evaluate_once(
    job: EvaluateJob,
    measure: Callable[[], EvaluationResultLike],
    record: Callable[[EvaluationResultLike], RunRef],
    progress: Progress,
) -> SavedEvaluation:
    """Keep what `measure` finds in `evaluations/NAME`, then have it recorded.

    Where an earlier run of the same job measured and MLflow did not take it, nothing is measured.

    Raises:
        MlflowUnavailable: MLflow does not answer; nothing was measured.
        MlflowWriteFailed: MLflow did not take the result; the next run of the same job sends it.
    """
    storage = Storage(job.storage)
    out = storage.subfolder("evaluations", job.name)
    require_usable(tracking_uri(job.track.uri, storage), nodes=1)
    found = _load_pending_upload(out, job)
    if found is not None:
        progress.message(
            "measured before, and MLflow lacks it: it is sent now"
            f" (to measure again, delete {out.uri(PENDING_UPLOAD)})"
        )
    else:
        found = measure()
        _save(out, job, found)
    tracking = record(found)
    out.delete(PENDING_UPLOAD)
    return SavedEvaluation(found.summary, tracking, out.uri(REPORT_FILE))


def _save(out: Storage, job: EvaluateJob, found: EvaluationResultLike) -> None:
    out.delete(PENDING_UPLOAD)  # it is of another job than the files below
    out.write_bytes(REPORT_FILE, found.report_html.encode())
    out.write_json(SUMMARY_FILE, found.summary)
    if found.scores:
        out.write_json(SCORES_FILE, found.scores)
    out.write_json(PENDING_UPLOAD, {"job": former_dump(job)})


def _load_pending_upload(out: Storage, job: EvaluateJob) -> EvaluationResultLike | None:
    """What an earlier run of this very job found, while MLflow lacks it."""
    if not out.exists(PENDING_UPLOAD):
        return None
    if out.read_json(PENDING_UPLOAD)["job"] != json.loads(json.dumps(former_dump(job))):
        return None
    verdict: dict[str, Any] = out.read_json(SUMMARY_FILE)
    scores: dict[str, Any] = out.read_json(SCORES_FILE) if out.exists(SCORES_FILE) else {}
    return EvaluationResult(verdict, scores, out.read_bytes(REPORT_FILE).decode())
