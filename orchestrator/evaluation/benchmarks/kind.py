"""The public benchmarks, as the `evaluate` kind runs and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.job import EvaluateJob
from orchestrator.kinds import RunContext
from orchestrator.outcome import Row
from orchestrator.text import format_percent_interval

if TYPE_CHECKING:
    from orchestrator.evaluation.result_store import SavedEvaluation


class BenchmarkEvaluation:
    """Scenes of a public benchmark, scored by surprise or by prediction."""

    json_key: Literal["verdict", "probe"] = "verdict"
    verb = "evaluated"

    def run(self, job: EvaluateJob, context: RunContext) -> SavedEvaluation:
        """Measure the benchmark."""
        from orchestrator.evaluation.benchmarks.driver import run_benchmark

        assert job.benchmark is not None
        return run_benchmark(
            job,
            job.benchmark,
            context.progress,
            local=context.local,
            parent=context.parent_run_id,
        )

    def size(self, job: EvaluateJob) -> tuple[list[Row], dict[str, Any]]:
        """The benchmark; how many scenes it has only its folder says."""
        assert job.benchmark is not None
        rows = [
            ("benchmark", f"{job.benchmark.kind}: its folder says how many scenes it has"),
            ("random", f"{job.random_models} random models"),
        ]
        return rows, {"benchmark": job.benchmark.kind, "scenes": None, "random": job.random_models}

    def model_uri(self, summary: Mapping[str, Any]) -> str:
        """URI of the model that was evaluated."""
        return str(summary["model"])

    def metrics(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The numbers as MLflow shows them."""
        from orchestrator.tracking.results.benchmarks import benchmark_metrics

        return benchmark_metrics(summary)

    def rows(self, summary: Mapping[str, Any]) -> list[Row]:
        """The overall scores, a line for each property, and how many scenes were scored."""
        rows: list[Row] = []
        for name, score in summary["overall"].items():
            text = f"{name} {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
            each = [one[name] for one in summary["random"] if name in one]
            if each:
                text += f", {len(each)} random models {sum(each) / len(each):.3f}"
            rows.append(("" if rows else "result", text))
        for name, row in summary.get("properties", {}).items():
            text = f"pairs {format_percent_interval(row['pair'])}"
            rows.append((name, f"{text}   AUROC {row['auroc']['value']:.2f}"))
        for arm, scores in summary.get("probe", {}).items():
            text = ", ".join(f"{name} {r2:.2f}" for name, r2 in scores.items() if r2 is not None)
            rows.append(("probe", f"R2 of the {arm}'s features: {text}"))
        counts = summary["counts"]
        text = f"{counts['scored']} scored, {counts['chosen_on']} chosen on"
        rows.append(("scenes", f"{text}, {counts['left_out']} left out"))
        return [*rows, ("protocol", summary["protocol"])]
