"""The `pipeline` kind: several jobs in order, each from the outputs of former ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from orchestrator.job import PipelineJob
from orchestrator.kinds import Kind, RunContext, kind_named
from orchestrator.outcome import Outcome, Outputs, Row
from orchestrator.text import format_duration


class PipelineKind(Kind[PipelineJob]):
    """Runs the stages that are not done yet; their records are in `pipelines/NAME`."""

    folder = "pipelines"
    unsupported: ClassVar = {"profile": "run the job of the stage by itself"}

    def archive(self, job: PipelineJob) -> list[str]:
        """The folders of all stages, then the pipeline's own."""
        stages = [path for one in job.stages for path in kind_named(one.job.kind).archive(one.job)]
        return [*stages, f"pipelines/{job.name}"]

    def run(self, job: PipelineJob, context: RunContext) -> Outcome:
        """Run the pipeline to the end of its last stage."""
        from orchestrator.pipeline.run_pipeline import run_pipeline

        began = time.time()
        result = run_pipeline(job, context)
        stages, seconds = result.rows, time.time() - began
        models = [row["model"] for row in stages if row["model"]]
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=seconds,
            run_id=result.tracking.run_id,
            tracking_uri=result.tracking.tracking_uri,
            model_uri=models[-1] if models else "",
            metrics={
                f"{row['name']}/{key}": value
                for row in stages
                for key, value in row["metrics"].items()
            },
            stages=stages,
            headline=_headline(stages, seconds),
            rows=stage_rows(stages),
            result=f"{stages[-1]['name']} {stages[-1]['text']}".rstrip(),
            outputs=Outputs(model=models[-1] if models else ""),
        )


def _headline(stages: Sequence[Mapping[str, Any]], seconds: float) -> str:
    kept = sum(row["state"] == "kept" for row in stages)
    text = f"{len(stages)} stages in {format_duration(seconds)}"
    return text + (f", {kept} of them already done" if kept else "")


def stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A line for each stage: its kind, its duration and what it made."""
    return [
        (
            row["name"],
            f"{row['kind']:<9} {format_duration(row['seconds']):<12}  {row['text']}".rstrip(),
        )
        for row in stages
    ]
