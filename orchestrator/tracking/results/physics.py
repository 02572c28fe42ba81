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
from orchestrator.tracking.mlflow_errors import asking
from orchestrator.tracking.results.evaluation import REPORT, SCORES, VERDICT, Result, record_result
from orchestrator.tracking.run import RunRef

RUN_TAG, PROTOCOL_TAG, QUAD_TAG = "physics.run", "physics.protocol", "physics.quad"


def record_evaluation(
    job: EvaluateJob,
    storage: Storage,
    verdict: Mapping[str, Any],
    scores: Mapping[str, Any],
    page: str,
    parent: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers, as `record_result` makes it."""
    overall, protocol = verdict["overall"], str(verdict["protocol"])
    result = Result(
        note=_note(verdict),
        metrics=headline(verdict),
        page=page,
        numbers={VERDICT: verdict, SCORES: scores},
        tags={"protocol": protocol},
        of_model={f"physics_{name}": overall[name]["value"] for name in ("quad", "pair")},
        of_version={PROTOCOL_TAG: protocol, QUAD_TAG: f"{overall['quad']['value']:.4f}"},
        run_tag=RUN_TAG,
        about_a_suite=True,
    )
    return record_result(job, storage, result, parent)


def scores_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The scores of the newest evaluation of a registered version.

    Raises:
        RequestError: it was never evaluated.
    """
    return _artifact(client, version, SCORES)


def verdict_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The verdict of the newest evaluation of a registered version.

    Raises:
        RequestError: it was never evaluated.
    """
    return _artifact(client, version, VERDICT)


def _artifact(client: MlflowClient, version: ModelVersion, name: str) -> dict[str, Any]:
    run_id = version.tags.get(RUN_TAG)
    uri = f"models:/{version.name}/{version.version}"
    if run_id is None:
        raise RequestError(
            f"{uri} was never evaluated",
            mend=f"orchestrator run jobs/physics/evaluate.yaml model={uri}",
        )
    with tempfile.TemporaryDirectory() as folder, asking(client.tracking_uri):
        path = client.download_artifacts(run_id, name, folder)
        found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def headline(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics."""
    rows: dict[str, float] = {}
    for name, value in verdict["overall"].items():
        rows |= {f"{name}_accuracy": value["value"], f"{name}_low": value["low"]}
        rows[f"{name}_high"] = value["high"]
    for scenario, row in verdict["scenarios"].items():
        rows[f"scenario/{scenario}/quad"] = row["quad"]["value"]
        rows[f"scenario/{scenario}/pair"] = row["pair"]["value"]
    for tier in ("sanity", "arrow"):
        rows |= {
            f"{tier}/{name}": row["share"]["value"] for name, row in verdict.get(tier, {}).items()
        }
    gains = {f"gain/{name}": value for name, value in verdict["gain"].items() if value is not None}
    return rows | gains | {f"health/{name}": value for name, value in verdict["health"].items()}


def _note(verdict: Mapping[str, Any]) -> str:
    quad, pair = verdict["overall"]["quad"], verdict["overall"]["pair"]
    return (
        f"`{verdict['model']}` on split `{verdict['split']}`:"
        f" **{100 * quad['value']:.1f}%** of quadruplets right"
        f" [{100 * quad['low']:.0f}, {100 * quad['high']:.0f}] (chance 25%),"
        f" {100 * pair['value']:.1f}% of pairs (chance 50%)."
        f"\n\nThe whole report: artifact `{REPORT}`. Protocol `{verdict['protocol']}`."
    )
