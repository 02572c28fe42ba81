"""Acting in MLflow: a run with the report, and where it is on the judged version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.job import EvaluateJob
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import (
    REPORT_FILE,
    SCORES_FILE,
    SUMMARY_FILE,
    EvaluationRecord,
    record_evaluation_run,
)
from orchestrator.tracking.run import RunRef


def record_planning(
    job: EvaluateJob,
    storage: Storage,
    summary: Mapping[str, Any],
    scores: Mapping[str, Any],
    report_html: str,
    parent_run_id: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers, as `record_evaluation_run` makes it."""
    world, protocol = str(summary["world"]), str(summary["protocol"])
    success, name = summary["overall"]["success"]["value"], _tag_name(world)
    result = EvaluationRecord(
        description=_description(summary),
        metrics=planning_metrics(summary),
        report_html=report_html,
        json_files={SUMMARY_FILE: summary, SCORES_FILE: scores},
        tags={"world": world, "protocol": protocol},
        model_metrics={f"{name}_success": success},
        version_tags={f"{name}.protocol": protocol, f"{name}.success": f"{success:.4f}"},
        version_run_tag=f"{name}.run",
    )
    return record_evaluation_run(job, storage, result, parent_run_id)


def _tag_name(world: str) -> str:
    """A world's name as part of a tag's: no slash, no colon."""
    return world.replace("/", "-").replace(":", "-")


def planning_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics: `success`, `random/success`, `gain/random`, ..."""
    rows: dict[str, float] = {}
    for name, arm in summary["arms"].items():
        prefix = "" if name == "model" else f"{name}/"
        found = arm["success"]
        rows |= {
            f"{prefix}success": found["value"],
            f"{prefix}success_low": found["low"],
            f"{prefix}success_high": found["high"],
            f"{prefix}distance": arm["distance"],
            f"{prefix}decision_ms": arm["ms"],
        }
        if arm["steps"] is not None:
            rows[f"{prefix}steps"] = arm["steps"]
    for name, gain in summary["gain"].items():
        rows |= {f"gain/{name}": gain["value"], f"gain/{name}_low": gain["low"]}
    return rows


def _description(verdict: Mapping[str, Any]) -> str:
    lines = [
        f"- {name}: **{100 * arm['success']['value']:.1f}%** of {arm['tasks']} goals reached"
        f" [{100 * arm['success']['low']:.0f}, {100 * arm['success']['high']:.0f}]"
        for name, arm in verdict["arms"].items()
    ]
    head = f"`{verdict['model']}` planning in {verdict['world']}"
    tail = f"The whole report: artifact `{REPORT_FILE}`. Protocol `{verdict['protocol']}`."
    return "\n".join([head, "", *lines, "", tail])
