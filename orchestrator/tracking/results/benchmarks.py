"""Public benchmarks in MLflow: a run with the report, and where it is on the judged version."""

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


def record_benchmark(
    job: EvaluateJob,
    storage: Storage,
    summary: Mapping[str, Any],
    scores: Mapping[str, Any],
    report_html: str,
    parent_run_id: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers, as `record_evaluation_run` makes it."""
    kind, protocol = str(summary["benchmark"]), str(summary["protocol"])
    result = EvaluationRecord(
        description=_description(summary),
        metrics=benchmark_metrics(summary),
        report_html=report_html,
        json_files={SUMMARY_FILE: summary, SCORES_FILE: scores},
        tags={"benchmark": kind, "protocol": protocol},
        model_metrics={
            f"{kind}_{name}": value["value"] for name, value in summary["overall"].items()
        },
        version_tags={f"{kind}.protocol": protocol},
        version_run_tag=f"{kind}.run",
        uses_suite=True,
    )
    return record_evaluation_run(job, storage, result, parent_run_id)


def benchmark_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics."""
    rows: dict[str, float] = {}
    for name, value in summary["overall"].items():
        rows |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    for name, row in summary.get("properties", {}).items():
        rows[f"property/{name}/pair"] = row["pair"]["value"]
        rows[f"property/{name}/auroc"] = row["auroc"]["value"]
    for row in summary.get("rollout", []):
        ahead = row["tubelets_ahead"]
        for rule, skill in row["skill"].items():
            rows[f"rollout/{ahead:02d}/skill_over_{rule}"] = skill["value"]
    for arm, found in summary.get("probe", {}).items():
        known = {name: value for name, value in found.items() if value is not None}
        rows |= {f"probe/{arm}/{name}": value for name, value in known.items()}
    gains = {f"gain/{name}": value for name, value in summary["gain"].items() if value is not None}
    counts = {f"scenes/{name}": float(value) for name, value in summary["counts"].items()}
    return rows | gains | counts


def _description(verdict: Mapping[str, Any]) -> str:
    found = ", ".join(
        f"{name} **{value['value']:.3f}** [{value['low']:.3f}, {value['high']:.3f}]"
        for name, value in verdict["overall"].items()
    )
    counts = verdict["counts"]
    return (
        f"`{verdict['model']}` on {verdict['benchmark']}: {found}; {counts['scored']} scenes"
        f" scored, {counts['left_out']} left out."
        f"\n\nThe whole report: artifact `{REPORT_FILE}`. Protocol `{verdict['protocol']}`."
    )
