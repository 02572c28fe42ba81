"""The `study` kind: how much video each objective needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.job import StudyJob, TrainJob
from orchestrator.kinds import Kind, RunContext, archive_folders, run_job
from orchestrator.outcome import Outcome, Row
from orchestrator.storage import Storage
from orchestrator.text import format_duration

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate.kinds import Estimate, EstimateOptions
    from orchestrator.study.driver import TrainedCell


class StudyKind(Kind[StudyJob]):
    """Trains and probes every cell in `studies/NAME`; cells that are measured are kept."""

    folder = "studies"
    unsupported: ClassVar = {"profile": "only a training has steps"}

    def archive(self, job: StudyJob) -> list[str]:
        """The study's folder and the runs of its cells."""
        return [f"studies/{job.name}", *(f"runs/{cell.key}" for cell in job.cells())]

    def estimate(
        self, job: StudyJob, profile: Profile | None, options: EstimateOptions
    ) -> Estimate:
        """The trainings of every arm; the probes are counted, not timed."""
        from orchestrator.estimate.many_trainings import TrainingGroup, estimate_many_trainings

        cells = [(cell.arm, cell.job) for cell in job.cells()]
        trained = [arm for arm, one in cells if one is not None]
        first = {arm: one for arm, one in reversed(cells) if one is not None}
        groups = [
            TrainingGroup(arm, trained.count(arm), first[arm]) for arm in dict.fromkeys(trained)
        ]
        videos = job.probe.fit_videos + job.probe.scored_videos
        probed = f"{len(cells):,} models on {videos:,} videos of each background"
        return estimate_many_trainings(
            job.kind,
            job.name,
            groups,
            profile,
            options,
            rows=[("probed", probed)],
            unknown=["time of the probes: it is not counted"],
        )

    def run(self, job: StudyJob, context: RunContext) -> Outcome:
        """Measure the cells that are not measured yet."""
        from orchestrator.ray_session import ray_session
        from orchestrator.study.driver import TrainedCell, run_study
        from orchestrator.tracking.results.studies import noted_run, study_metrics

        cell_context = replace(context, fresh=False, parent_run_id=None)

        def train(cell: TrainJob) -> TrainedCell:
            trained = run_job(cell, cell_context)
            return TrainedCell(trained.outputs.model, trained.run_id)

        began, storage = time.time(), Storage(job.storage)
        if context.fresh:
            noted = noted_run(storage.subfolder("studies", job.name))
            archive_folders(storage, self.archive(job), noted)
        with nullcontext() if context.local else ray_session():  # one for all cells
            result = run_study(job, context.progress, train, context.parent_run_id)
        seconds = time.time() - began
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=seconds,
            run_id=result.mlflow_run.run_id,
            tracking_uri=result.mlflow_run.tracking_uri,
            metrics=study_metrics(result.result),
            verdict=result.result,
            report=result.report_uri,
            headline=f"{len(result.result['cells'])} models in {format_duration(seconds)}",
            rows=study_rows(result.result),
            result=f"report {result.report_uri}",
        )


def study_rows(result: Mapping[str, Any]) -> list[Row]:
    """A line for each arm's curve, and for each ratio."""
    from orchestrator.study.report import format_claim

    rows = []
    for panel in result["panels"]:
        rows.append((panel["score"], f"R2 by number of videos, {panel['background']} background"))
        for arm, scores in panel["arms"].items():
            means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
            counts = result["clips"] if len(means) > 1 else ["untrained"]
            text = "   ".join(f"{n}: {m:.3f}" for n, m in zip(counts, means, strict=True))
            rows.append(("", f"{arm:<12}{text}"))
        for arm, ratio in panel["ratios"].items():
            rows.append(("", format_claim(ratio, result["reference"], arm)))
    return rows
