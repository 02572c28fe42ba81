"""The probes of frozen features, as the `evaluate` kind runs and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.job import EvaluateJob
from orchestrator.kinds import RunContext
from orchestrator.outcome import Row

if TYPE_CHECKING:
    from orchestrator.evaluation.result_store import SavedEvaluation


class ProbeEvaluation:
    """Targets that are predicted from a model's frozen features."""

    json_key: Literal["verdict", "probe"] = "probe"
    verb = "probed"

    def run(self, job: EvaluateJob, context: RunContext) -> SavedEvaluation:
        """Fit the probes and score them."""
        from orchestrator.evaluation.probes.driver import run_probe

        assert job.probe is not None
        return run_probe(
            job,
            job.probe,
            context.progress,
            local=context.local,
            parent=context.parent_run_id,
        )

    def model_uri(self, summary: Mapping[str, Any]) -> str:
        """URI of the model that was probed."""
        return str(summary["features"]["model"]["model_uri"])

    def metrics(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The numbers as MLflow shows them."""
        from orchestrator.tracking.results.probes import probe_metrics

        return probe_metrics(summary)

    def rows(self, summary: Mapping[str, Any]) -> list[Row]:
        """A line for each target: the model's score beside those of random weights and baseline."""
        from orchestrator.evaluation.probes.report import format_score

        arms = summary["arms"]
        rows = []
        for name, own in arms["model"]["scores"].items():
            parts = [f"{own['metric']} {format_score(own)}"]
            for arm, title in (("random", "random weights"), ("baseline", "without features")):
                if arm in arms:
                    parts.append(f"{title} {format_score(arms[arm]['scores'][name])}")
            rows.append((name, "   ".join(parts)))
        split = "   ".join(f"{side} {one['videos']:,}" for side, one in summary["split"].items())
        return [*rows, ("videos", f"{split}   protocol {summary['protocol']}")]
