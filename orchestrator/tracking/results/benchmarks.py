"""Public benchmarks in MLflow: a run with the report, and where it is on the judged version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.job import EvaluateJob
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import REPORT, SCORES, VERDICT, Result, record_result
from orchestrator.tracking.run import RunRef


def record_benchmark(
    job: EvaluateJob,
    storage: Storage,
    verdict: Mapping[str, Any],
    scores: Mapping[str, Any],
    page: str,
    parent: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers, as `record_result` makes it."""
    kind, protocol = str(verdict["benchmark"]), str(verdict["protocol"])
    result = Result(
        note=_note(verdict),
        metrics=benchmark_headline(verdict),
        page=page,
        numbers={VERDICT: verdict, SCORES: scores},
        tags={"benchmark": kind, "protocol": protocol},
        of_model={f"{kind}_{name}": value["value"] for name, value in verdict["overall"].items()},
        of_version={f"{kind}.protocol": protocol},
        run_tag=f"{kind}.run",
        about_a_suite=True,
    )
    return record_result(job, storage, result, parent)


def benchmark_headline(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics."""
    rows: dict[str, float] = {}
    for name, value in verdict["overall"].items():
        rows |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    for name, row in verdict.get("properties", {}).items():
        rows[f"property/{name}/pair"] = row["pair"]["value"]
        rows[f"property/{name}/auroc"] = row["auroc"]["value"]
    for row in verdict.get("rollout", []):
        ahead = row["tubelets_ahead"]
        for rule, skill in row["skill"].items():
            rows[f"rollout/{ahead:02d}/skill_over_{rule}"] = skill["value"]
    for arm, found in verdict.get("probe", {}).items():
        known = {name: value for name, value in found.items() if value is not None}
        rows |= {f"probe/{arm}/{name}": value for name, value in known.items()}
    gains = {f"gain/{name}": value for name, value in verdict["gain"].items() if value is not None}
    counts = {f"scenes/{name}": float(value) for name, value in verdict["counts"].items()}
    return rows | gains | counts


def _note(verdict: Mapping[str, Any]) -> str:
    found = ", ".join(
        f"{name} **{value['value']:.3f}** [{value['low']:.3f}, {value['high']:.3f}]"
        for name, value in verdict["overall"].items()
    )
    counts = verdict["counts"]
    return (
        f"`{verdict['model']}` on {verdict['benchmark']}: {found}; {counts['scored']} scenes"
        f" scored, {counts['left_out']} left out."
        f"\n\nThe whole report: artifact `{REPORT}`. Protocol `{verdict['protocol']}`."
    )
