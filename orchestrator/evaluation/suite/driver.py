"""`kind: evaluate`: judge, write the report, tell MLflow."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.evaluable import Judgeable, load_judgeable
from orchestrator.evaluation.promotion_gate import beside_champion
from orchestrator.evaluation.result_store import Evaluated, Measured, measure_once
from orchestrator.evaluation.suite.measure import Findings, judge
from orchestrator.evaluation.suite.report import report
from orchestrator.evaluation.suite.summary import verdict
from orchestrator.job import EvaluateJob
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.report.statistics import pair_accuracy, quad_right
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import pinned
from orchestrator.tracking.results.physics import record_evaluation
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri


@dataclass(frozen=True)
class Judged:
    """What a model is found to know."""

    verdict: dict[str, Any]
    scores: dict[str, Any]
    page: str
    """The report, HTML."""


def judged(
    job: EvaluateJob,
    model: Judgeable,
    progress: Progress,
    *,
    local: bool,
    server: str | None = None,
) -> Judged:
    """Judge a model that is at hand; nothing is written.

    Args:
        server: the registry in which the job's model may have a champion to stand beside.

    Raises:
        RequestError: model and suite do not fit.
    """
    findings = judge(job, model, progress, local=local)
    found, scores = verdict(job, findings), scores_json(job, findings)
    found["champion"] = beside_champion(job.model, scores, server) if server else None
    return Judged(found, scores, report(found, findings, job.suite.split, model))


def run_evaluate(
    job: EvaluateJob, progress: Progress, *, local: bool, parent: str | None = None
) -> Evaluated:
    """Judge the job's model; the report is in `evaluations/NAME` and on an MLflow run.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: there is no such model, or model and suite do not fit.
        JobFailed: MLflow did not take the result.
    """
    storage = Storage(job.storage)
    server = tracking_uri(job.track.uri, storage)
    job = job.model_copy(update={"model": pinned(job.model, server)})

    def measure() -> Judged:
        model = load_judgeable(job.model, server)
        with nullcontext() if local else ray_session():
            return judged(job, model, progress, local=local, server=server)

    def record(found: Measured) -> RunRef:
        return record_evaluation(job, storage, found.verdict, found.scores, found.page, parent)

    return measure_once(job, measure, record, progress)


def scores_json(job: EvaluateJob, findings: Findings) -> dict[str, Any]:
    """Quad by quad, so that two models can be compared on the same quadruplets."""
    scores = {name: seen.scores[findings.look] for name, seen in findings.model.items()}
    return {
        "protocol": findings.protocol.digest(job),
        "confidence": job.confidence,
        "quad": {name: quad_right(values).tolist() for name, values in scores.items()},
        "pair": {name: pair_accuracy(values).tolist() for name, values in scores.items()},
        "surprise": {name: values.tolist() for name, values in scores.items()},
    }
