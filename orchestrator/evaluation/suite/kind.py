"""The physics suite, as the `evaluate` kind runs and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.job import EvaluateJob
from orchestrator.kinds import RunContext
from orchestrator.outcome import Row
from orchestrator.text import format_percent_interval

if TYPE_CHECKING:
    from orchestrator.evaluation.result_store import SavedEvaluation


class SuiteEvaluation:
    """Quadruplets of possible and impossible videos: which surprise the model more."""

    json_key: Literal["verdict", "probe"] = "verdict"
    verb = "evaluated"

    def run(self, job: EvaluateJob, context: RunContext) -> SavedEvaluation:
        """Measure the suite."""
        from orchestrator.evaluation.suite.driver import run_suite

        return run_suite(job, context.progress, local=context.local, parent=context.parent_run_id)

    def size(self, job: EvaluateJob) -> tuple[list[Row], dict[str, Any]]:
        """Videos that are scored, chosen on, and shown to random models."""
        from orchestrator.physics.suite.quads import EXPERIMENTAL_SCENARIOS, SCENARIOS

        suite = job.suite
        scenarios = suite.scenarios or [s for s in SCENARIOS if s not in EXPERIMENTAL_SCENARIOS]
        videos = {
            "scored": 4 * suite.quads * len(scenarios),
            "chosen_on": 4 * suite.selection_quads * len(scenarios),
            "random": 4 * job.random_quads * len(scenarios) * job.random_models,
        }
        text = f"{videos['scored']:,} scored, {videos['chosen_on']:,} chosen on, {suite.frames}"
        text += f" frames each; {videos['random']:,} for {job.random_models} random models"
        tiers = f"{suite.sanity} sets of sanity, {suite.arrow_of_time} videos of each kind of arrow"
        rows = [("scenarios", f"{len(scenarios)}"), ("videos", text), ("tiers", tiers)]
        return rows, {"scenarios": len(scenarios), "videos": videos}

    def model_uri(self, summary: Mapping[str, Any]) -> str:
        """URI of the model that was evaluated."""
        return str(summary["model"])

    def metrics(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The numbers as MLflow shows them."""
        from orchestrator.tracking.results.physics import physics_metrics

        return physics_metrics(summary)

    def rows(self, summary: Mapping[str, Any]) -> list[Row]:
        """Quads and pairs right, a line for each scenario, and the further tiers."""
        rows = []
        for name, chance in (("quad", 25), ("pair", 50)):
            share = summary["overall"][name]
            text = f"{name}s right {format_percent_interval(share)}, chance {chance}%"
            if summary["random"]:
                each = [one[name] for one in summary["random"]]
                text += f", {len(each)} random models {100 * sum(each) / len(each):.1f}%"
            rows.append(("result" if name == "quad" else "", text))
        for name, row in summary["scenarios"].items():
            text = f"quads {format_percent_interval(row['quad'])}"
            rows.append((name, f"{text}   pairs {format_percent_interval(row['pair'])}"))
        for tier in ("sanity", "arrow"):
            shares = [
                f"{name} {format_percent_interval(row['share'])}"
                for name, row in summary.get(tier, {}).items()
            ]
            if shares:
                rows.append((tier, "   ".join([*shares, "chance 50%"])))
        return [*rows, ("protocol", summary["protocol"])]
