"""`kind: evaluate`: judge, write the report, tell MLflow."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.evaluable import Evaluable, load_evaluable
from orchestrator.evaluation.promotion_gate import champion_comparison
from orchestrator.evaluation.result_store import (
    EvaluationResultLike,
    SavedEvaluation,
    evaluate_once,
)
from orchestrator.evaluation.suite.measure import SuiteRawResults, measure_suite
from orchestrator.evaluation.suite.report import suite_report
from orchestrator.evaluation.suite.summary import summarize
from orchestrator.job import EvaluateJob
from orchestrator.physics.suite.scoring import pair_accuracy, quad_correct
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import pin_version
from orchestrator.tracking.results.physics import record_physics
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri


@dataclass(frozen=True)
class EvaluationResult:
    """What a model is found to know."""

    summary: dict[str, Any]
    scores: dict[str, Any]
    report_html: str
    """The report, HTML."""


def evaluate_suite(
    job: EvaluateJob,
    model: Evaluable,
    progress: Progress,
    *,
    local: bool,
    server: str | None = None,
) -> EvaluationResult:
    """Judge a model that is at hand; nothing is written.

    Args:
        server: the registry in which the job's model may have a champion to stand beside.

    Raises:
        RequestError: model and suite do not fit.
    """
    findings = measure_suite(job, model, progress, local=local)
    found, scores = summarize(job, findings), scores_json(job, findings)
    found["champion"] = champion_comparison(job.model, scores, server) if server else None
    return EvaluationResult(found, scores, suite_report(found, findings, job.suite.split, model))


def run_suite(
    job: EvaluateJob, progress: Progress, *, local: bool, parent: str | None = None
) -> SavedEvaluation:
    """Judge the job's model; the report is in `evaluations/NAME` and on an MLflow run.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: there is no such model, or model and suite do not fit.
        JobFailed: MLflow did not take the result.
    """
    storage = Storage(job.storage)
    server = tracking_uri(job.track.uri, storage)
    job = job.model_copy(update={"model": pin_version(job.model, server)})

    def measure() -> EvaluationResult:
        model = load_evaluable(job.model, server)
        with nullcontext() if local else ray_session():
            return evaluate_suite(job, model, progress, local=local, server=server)

    def record(found: EvaluationResultLike) -> RunRef:
        return record_physics(job, storage, found.summary, found.scores, found.report_html, parent)

    return evaluate_once(job, measure, record, progress)


def scores_json(job: EvaluateJob, findings: SuiteRawResults) -> dict[str, Any]:
    """Quad by quad, so that two models can be compared on the same quadruplets."""
    scores = {name: seen.scores[findings.scoring_rule] for name, seen in findings.model.items()}
    return {
        "protocol": findings.protocol.digest(job),
        "confidence": job.confidence,
        "quad": {name: quad_correct(values).tolist() for name, values in scores.items()},
        "pair": {name: pair_accuracy(values).tolist() for name, values in scores.items()},
        "surprise": {name: values.tolist() for name, values in scores.items()},
    }
