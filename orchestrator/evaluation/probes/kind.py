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

    def size(self, job: EvaluateJob) -> tuple[list[Row], dict[str, Any]]:
        """Arms, and the heads that are fitted on each."""
        assert job.probe is not None
        head = job.probe.head
        options = head.model_dump(mode="json")
        heads = len(options.get("lrs", [1])) * len(options.get("weight_decays", [1]))
        arms = 1 + (job.probe.random_features is not None)
        rows = [("probe", f"{head.kind} for {job.probe.target}, {heads} heads on each of {arms}"
                 " sets of features")]  # fmt: skip
        return rows, {"head": head.kind, "heads": heads, "arms": arms, "clips": None}

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
