"""Acting in MLflow: a run with the report, and where it is on the judged version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.job import EvaluateJob
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import REPORT, SCORES, VERDICT, Result, record_result
from orchestrator.tracking.run import RunRef


def record_acting(
    job: EvaluateJob,
    storage: Storage,
    verdict: Mapping[str, Any],
    scores: Mapping[str, Any],
    page: str,
    parent: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers, as `record_result` makes it."""
    world, protocol = str(verdict["world"]), str(verdict["protocol"])
    success, name = verdict["overall"]["success"]["value"], _plain(world)
    result = Result(
        note=_note(verdict),
        metrics=acting_headline(verdict),
        page=page,
        numbers={VERDICT: verdict, SCORES: scores},
        tags={"world": world, "protocol": protocol},
        of_model={f"{name}_success": success},
        of_version={f"{name}.protocol": protocol, f"{name}.success": f"{success:.4f}"},
        run_tag=f"{name}.run",
    )
    return record_result(job, storage, result, parent)


def _plain(world: str) -> str:
    """A world's name as part of a tag's: no slash, no colon."""
    return world.replace("/", "-").replace(":", "-")


def acting_headline(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics: `success`, `random/success`, `gain/random`, ..."""
    rows: dict[str, float] = {}
    for name, arm in verdict["arms"].items():
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
    for name, gain in verdict["gain"].items():
        rows |= {f"gain/{name}": gain["value"], f"gain/{name}_low": gain["low"]}
    return rows


def _note(verdict: Mapping[str, Any]) -> str:
    lines = [
        f"- {name}: **{100 * arm['success']['value']:.1f}%** of {arm['tasks']} goals reached"
        f" [{100 * arm['success']['low']:.0f}, {100 * arm['success']['high']:.0f}]"
        for name, arm in verdict["arms"].items()
    ]
    head = f"`{verdict['model']}` planning in {verdict['world']}"
    tail = f"The whole report: artifact `{REPORT}`. Protocol `{verdict['protocol']}`."
    return "\n".join([head, "", *lines, "", tail])
