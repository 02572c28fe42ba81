"""The `evaluate` kind: a suite, a benchmark, a probe or planning, each a class of its own."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from orchestrator.job import EvaluateJob
from orchestrator.kinds import Kind, RunContext, archive_folders
from orchestrator.outcome import Outcome, Row
from orchestrator.storage import Storage
from orchestrator.text import format_duration

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate.kinds import Estimate, EstimateOptions
    from orchestrator.evaluation.result_store import SavedEvaluation

_EVALUATION_PATHS = {
    "suite": "orchestrator.evaluation.suite.kind:SuiteEvaluation",
    "benchmark": "orchestrator.evaluation.benchmarks.kind:BenchmarkEvaluation",
    "probe": "orchestrator.evaluation.probes.kind:ProbeEvaluation",
    "planning": "orchestrator.evaluation.planning.kind:PlanningEvaluation",
}


class Evaluation(Protocol):
    """One way to evaluate a model."""

    json_key: Literal["verdict", "probe"]
    """Key of `run --json` under which the summary is printed."""

    verb: str
    """What was done to the model, for the headline."""

    def run(self, job: EvaluateJob, context: RunContext) -> SavedEvaluation:
        """Measure, save the result in `evaluations/NAME` and record it in MLflow."""
        ...

    def size(self, job: EvaluateJob) -> tuple[list[Row], dict[str, Any]]:
        """How much is measured: lines for the terminal, and the same in numbers."""
        ...

    def model_uri(self, summary: Mapping[str, Any]) -> str:
        """URI of the model that was evaluated."""
        ...

    def metrics(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The numbers as MLflow shows them."""
        ...

    def rows(self, summary: Mapping[str, Any]) -> list[Row]:
        """The numbers as the terminal shows them."""
        ...


class EvaluateKind(Kind[EvaluateJob]):
    """Evaluates a model; the result is in `evaluations/NAME`."""

    folder = "evaluations"
    unsupported: ClassVar = {"profile": "only a training has steps"}

    def archive(self, job: EvaluateJob) -> list[str]:
        """The folder of the result."""
        return [f"evaluations/{job.name}"]

    def estimate(
        self, job: EvaluateJob, profile: Profile | None, options: EstimateOptions
    ) -> Estimate:
        """What is measured, and on how many cores; the model is not opened."""
        from orchestrator.estimate.kinds import KindEstimate, cluster_cores

        rows, figures = evaluation_of(job).size(job)
        at_once = int(cluster_cores(profile) // job.cpus) if profile else None
        task = f"{job.cpus:g} cores"
        rows.append(("task", task if at_once is None else f"{task}, {at_once:,} at a time"))
        return KindEstimate(
            kind=job.kind,
            name=job.name,
            rows=tuple(rows),
            figures={
                **figures,
                "cpus_per_task": job.cpus,
                "tasks_at_once": at_once,
                "memory": None,
                "hours": None,
                "cost": None,
            },
            unknown=(
                "memory, time and cost: the model is named by its URI, its size and its window are"
                " known once it is loaded",
            ),
        )

    def run(self, job: EvaluateJob, context: RunContext) -> Outcome:
        """Evaluate, or send to MLflow what an earlier run measured and could not send."""
        began = time.time()
        if context.fresh:
            archive_folders(Storage(job.storage), self.archive(job))
        evaluation = evaluation_of(job)
        saved = evaluation.run(job, context)
        summary, seconds = saved.summary, time.time() - began
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=seconds,
            run_id=saved.mlflow_run.run_id,
            tracking_uri=saved.mlflow_run.tracking_uri,
            model_uri=evaluation.model_uri(summary),
            metrics=evaluation.metrics(summary),
            report=saved.report_uri,
            headline=f"{evaluation.verb} in {format_duration(seconds)}",
            rows=evaluation.rows(summary),
            result=f"report {saved.report_uri}",
            verdict=summary if evaluation.json_key == "verdict" else {},
            probe=summary if evaluation.json_key == "probe" else {},
        )


def evaluation_of(job: EvaluateJob) -> Evaluation:
    """The evaluation that the job's sections ask for."""
    module, name = _EVALUATION_PATHS[job.question].split(":")
    evaluation: Evaluation = getattr(importlib.import_module(module), name)()
    return evaluation
