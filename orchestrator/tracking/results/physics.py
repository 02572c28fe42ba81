"""Evaluations in MLflow: a run with the report, and the verdict beside the version it judges."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from orchestrator.errors import RequestError
from orchestrator.job import EvaluateJob
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import mlflow_read
from orchestrator.tracking.results.evaluation import (
    REPORT_FILE,
    SCORES_FILE,
    SUMMARY_FILE,
    EvaluationRecord,
    record_evaluation_run,
)
from orchestrator.tracking.run import RunRef

PHYSICS_RUN_TAG, PHYSICS_PROTOCOL_TAG, PHYSICS_QUAD_TAG = (
    "physics.run",
    "physics.protocol",
    "physics.quad",
)


def record_physics(
    job: EvaluateJob,
    storage: Storage,
    summary: Mapping[str, Any],
    scores: Mapping[str, Any],
    report_html: str,
    parent_run_id: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers, as `record_evaluation_run` makes it."""
    overall, protocol = summary["overall"], str(summary["protocol"])
    result = EvaluationRecord(
        description=_description(summary),
        metrics=physics_metrics(summary),
        report_html=report_html,
        json_files={SUMMARY_FILE: summary, SCORES_FILE: scores},
        tags={"protocol": protocol},
        model_metrics={f"physics_{name}": overall[name]["value"] for name in ("quad", "pair")},
        version_tags={
            PHYSICS_PROTOCOL_TAG: protocol,
            PHYSICS_QUAD_TAG: f"{overall['quad']['value']:.4f}",
        },
        version_run_tag=PHYSICS_RUN_TAG,
        uses_suite=True,
    )
    return record_evaluation_run(job, storage, result, parent_run_id)


def load_scores(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The scores of the newest evaluation of a registered version.

    Raises:
        RequestError: it was never evaluated.
    """
    return _load_artifact(client, version, SCORES_FILE)


def load_summary(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The verdict of the newest evaluation of a registered version.

    Raises:
        RequestError: it was never evaluated.
    """
    return _load_artifact(client, version, SUMMARY_FILE)


def _load_artifact(client: MlflowClient, version: ModelVersion, name: str) -> dict[str, Any]:
    run_id = version.tags.get(PHYSICS_RUN_TAG)
    uri = f"models:/{version.name}/{version.version}"
    if run_id is None:
        raise RequestError(
            f"{uri} was never evaluated",
            hint=f"orchestrator run jobs/physics/evaluate.yaml model={uri}",
        )
    with tempfile.TemporaryDirectory() as folder, mlflow_read(client.tracking_uri):
        path = client.download_artifacts(run_id, name, folder)
        found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def physics_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics."""
    rows: dict[str, float] = {}
    for name, value in summary["overall"].items():
        rows |= {f"{name}_accuracy": value["value"], f"{name}_low": value["low"]}
        rows[f"{name}_high"] = value["high"]
    for scenario, row in summary["scenarios"].items():
        rows[f"scenario/{scenario}/quad"] = row["quad"]["value"]
        rows[f"scenario/{scenario}/pair"] = row["pair"]["value"]
    for tier in ("sanity", "arrow"):
        rows |= {
            f"{tier}/{name}": row["share"]["value"] for name, row in summary.get(tier, {}).items()
        }
    gains = {f"gain/{name}": value for name, value in summary["gain"].items() if value is not None}
    return rows | gains | {f"health/{name}": value for name, value in summary["health"].items()}


def _description(verdict: Mapping[str, Any]) -> str:
    quad, pair = verdict["overall"]["quad"], verdict["overall"]["pair"]
    return (
        f"`{verdict['model']}` on split `{verdict['split']}`:"
        f" **{100 * quad['value']:.1f}%** of quadruplets right"
        f" [{100 * quad['low']:.0f}, {100 * quad['high']:.0f}] (chance 25%),"
        f" {100 * pair['value']:.1f}% of pairs (chance 50%)."
        f"\n\nThe whole report: artifact `{REPORT_FILE}`. Protocol `{verdict['protocol']}`."
    )
