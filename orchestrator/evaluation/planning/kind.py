"""The planning in an environment, as the `evaluate` kind runs and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.job import EvaluateJob
from orchestrator.kinds import RunContext
from orchestrator.outcome import Row
from orchestrator.text import format_percent_interval

if TYPE_CHECKING:
    from orchestrator.evaluation.result_store import SavedEvaluation


class PlanningEvaluation:
    """Goals of an environment, reached by planning with the model."""

    json_key: Literal["verdict", "probe"] = "verdict"
    verb = "evaluated"

    def run(self, job: EvaluateJob, context: RunContext) -> SavedEvaluation:
        """Let the model and the baselines try to reach every goal."""
        from orchestrator.evaluation.planning.driver import run_planning

        assert job.planning is not None
        return run_planning(
            job,
            job.planning,
            context.progress,
            local=context.local,
            parent=context.parent_run_id,
        )

    def size(self, job: EvaluateJob) -> tuple[list[Row], dict[str, Any]]:
        """Tasks, control steps at most, and plans that are tried for a decision."""
        assert job.planning is not None
        planning = job.planning
        tasks = len(planning.tasks) or planning.episodes
        steps = tasks * planning.budget * (1 + len(planning.baselines))
        solver = planning.solver.model_dump(mode="json")
        tried = None
        if "candidates" in solver:
            tried = solver["candidates"] * solver["iterations"]
        text = f"{tasks:,} for the model and {len(planning.baselines)} baselines beside it"
        rows = [("tasks", text), ("acting", f"at most {steps:,} control steps")]
        if tried is not None:
            rows.append(("a decision", f"{tried:,} plans of {planning.horizon} model steps"))
        return rows, {"tasks": tasks, "control_steps": steps, "plans_per_decision": tried}

    def model_uri(self, summary: Mapping[str, Any]) -> str:
        """URI of the model that was evaluated."""
        return str(summary["model"])

    def metrics(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The numbers as MLflow shows them."""
        from orchestrator.tracking.results.planning import planning_metrics

        return planning_metrics(summary)

    def rows(self, summary: Mapping[str, Any]) -> list[Row]:
        """A line for each arm: goals reached, and how long a decision takes."""
        rows = []
        for name, arm in summary["arms"].items():
            text = f"{format_percent_interval(arm['success'])} of {arm['tasks']} goals reached"
            gain = summary["gain"].get(name)
            if gain is not None:
                ends = f"{100 * gain['low']:+.0f}, {100 * gain['high']:+.0f}"
                text += f"   the model over it {100 * gain['value']:+.1f} points [{ends}]"
            rows.append((name, f"{text}   {arm['ms']:.3g} ms a decision"))
        return [*rows, ("protocol", summary["protocol"])]
