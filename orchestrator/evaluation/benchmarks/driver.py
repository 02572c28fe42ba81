"""`kind: evaluate` with a `benchmark`: judge, write the report, tell MLflow."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from orchestrator.evaluation.benchmarks import pairs_summary as scores
from orchestrator.evaluation.benchmarks import rollout_summary as roll_scores
from orchestrator.evaluation.benchmarks.pairs import (
    PairsRawResults,
    SceneScores,
    case_videos,
    measure_pairs,
)
from orchestrator.evaluation.benchmarks.report import SceneCase, pairs_report, rollouts_report
from orchestrator.evaluation.benchmarks.rollouts import measure_rollouts
from orchestrator.evaluation.evaluable import Evaluable, load_evaluable
from orchestrator.evaluation.result_store import (
    EvaluationResult,
    EvaluationResultLike,
    SavedEvaluation,
    evaluate_once,
)
from orchestrator.job import EvaluateJob
from orchestrator.job.config.benchmark import (
    AnyBenchmark,
    Clevrer,
    MovingMnist,
    ViolationOfExpectation,
)
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import pin_version
from orchestrator.tracking.results.benchmarks import record_benchmark
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri


def run_benchmark(
    job: EvaluateJob,
    benchmark: AnyBenchmark,
    progress: Progress,
    *,
    local: bool,
    parent: str | None = None,
) -> SavedEvaluation:
    """Judge the job's model; the report is in `evaluations/NAME` and on an MLflow run.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: there is no such model or benchmark, or they do not fit.
        JobFailed: more of the benchmark than `bad_limit` cannot be used, or MLflow did not take
            the result.
    """
    storage = Storage(job.storage)
    server = tracking_uri(job.track.uri, storage)
    job = job.model_copy(update={"model": pin_version(job.model, server)})

    def measure() -> EvaluationResult:
        model = load_evaluable(job.model, server)
        with nullcontext() if local else ray_session():
            return EvaluationResult(
                *evaluate_benchmark(job, benchmark, model, progress, local=local)
            )

    def record(found: EvaluationResultLike) -> RunRef:
        return record_benchmark(
            job, storage, found.summary, found.scores, found.report_html, parent
        )

    return evaluate_once(job, measure, record, progress)


def evaluate_benchmark(
    job: EvaluateJob,
    benchmark: AnyBenchmark,
    model: Evaluable,
    progress: Progress,
    *,
    local: bool,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Verdict, scores, and the page about them, of a model that is at hand; nothing is written.

    Raises:
        RequestError: there is no such benchmark, or model and benchmark do not fit.
        JobFailed: more of it than `bad_limit` cannot be used.
    """
    if isinstance(benchmark, (MovingMnist, Clevrer)):
        rolls = measure_rollouts(job, benchmark, model, progress, local=local)
        found = roll_scores.summarize(job, benchmark, rolls)
        return found, roll_scores.scores_json(job, benchmark, rolls), rollouts_report(found)
    findings = measure_pairs(job, benchmark, model, progress, local=local)
    found = scores.summarize(job, benchmark, findings)
    page = pairs_report(found, _cases(benchmark, model, findings))
    return found, scores.scores_json(job, benchmark, findings), page


def _cases(
    benchmark: ViolationOfExpectation, model: Evaluable, findings: PairsRawResults
) -> list[SceneCase]:
    """Each property's clearest and its worst scene, with pictures."""
    storage, look = Storage(benchmark.folder), findings.scoring_rule

    def margin(one: SceneScores) -> float:
        values = one.scores[look]
        return float((values[:, 1] - values[:, 0]).mean() / (values.std() + 1e-9))

    shown: list[SceneCase] = []
    for name in dict.fromkeys(one.scene.property for one in findings.model):
        mine = [one for one in findings.model if one.scene.property == name]
        margins = [margin(one) for one in mine]
        for label, at in (("clearest", np.argmax(margins)), ("worst", np.argmin(margins))):
            scene = mine[int(at)].scene
            pictures = case_videos(model, storage, findings.protocol, look, scene)
            shown.append((f"{name}: {label}", scene.name, pictures))
    return shown
