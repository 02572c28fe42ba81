"""Probes in MLflow: a run with the scores, the page and the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.job import EvaluateJob
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import (
    REPORT_FILE,
    SUMMARY_FILE,
    EvaluationRecord,
    record_evaluation_run,
)
from orchestrator.tracking.run import RunRef


def record_probe(
    job: EvaluateJob,
    storage: Storage,
    summary: Mapping[str, Any],
    report_html: str,
    parent_run_id: str | None = None,
) -> RunRef:
    """A run with metrics, page and numbers, as `record_evaluation_run` makes it."""
    features = summary["features"]["model"]
    result = EvaluationRecord(
        description=_description(summary),
        metrics=probe_metrics(summary),
        report_html=report_html,
        json_files={SUMMARY_FILE: summary},
        tags={
            "protocol": str(summary["protocol"]),
            "model.digest": str(features["model"]),
            "data.digest": ", ".join(features["data"]),
        },
    )
    return record_evaluation_run(job, storage, result, parent_run_id)


def probe_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The scores as MLflow's metrics: `probe/x`, `probe/x_low`, `probe/random/x`, ..."""
    rows: dict[str, float] = {}
    for arm, found in summary["arms"].items():
        prefix = "probe/" if arm == "model" else f"probe/{arm}/"
        for name, score in found["scores"].items():
            if score["value"] is not None:
                rows[f"{prefix}{name}"] = score["value"]
                rows[f"{prefix}{name}_low"] = score["low"]
                rows[f"{prefix}{name}_high"] = score["high"]
    return rows


def _description(verdict: Mapping[str, Any]) -> str:
    model = verdict["features"]["model"]["model_uri"]
    lines = [
        f"- {name}: {score['metric']} **{score['value']:.3f}** [{score['low']:.3f},"
        f" {score['high']:.3f}]"
        for name, score in verdict["arms"]["model"]["scores"].items()
        if score["value"] is not None
    ]
    head = f"{verdict['head'].capitalize()} probe for {verdict['target']} on `{model}`"
    return "\n".join(
        [head, "", *lines, "", f"The whole page: artifact `{REPORT_FILE}`. Protocol"
         f" `{verdict['protocol']}`."]
    )  # fmt: skip
