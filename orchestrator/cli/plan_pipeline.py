"""`orchestrator plan` of a pipeline: a plan for each stage that trains, a line for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.job import PipelineJob, Stage, TrainJob


def plan_pipeline(
    job: PipelineJob,
    show: Callable[[TrainJob], None],
    plain: Callable[[TrainJob], dict[str, Any]],
    *,
    json: bool,
) -> None:
    """Check that the stages fit each other, then show the plan of each.

    Args:
        show: prints the plan of one training.
        plain: the plan of one training as plain data.

    Raises:
        RequestError: a stage does not fit a former one, or the cluster.
    """
    from orchestrator.cli.output import print_json
    from orchestrator.pipeline.compatibility import check_stages

    check_stages(job, local=False)
    if json:
        print_json(
            {
                "name": job.name,
                "stages": [
                    {
                        "name": stage.name,
                        "kind": stage.job.kind,
                        "from": _stage_inputs(stage),
                        "plan": plain(training) if (training := _training(stage)) else None,
                    }
                    for stage in job.stages
                ],
            }
        )
        return
    for i, stage in enumerate(job.stages):
        takes = ", ".join(_stage_inputs(stage)) or "of no former stage"
        gap = "\n" if i else ""
        print(f"{gap}stage {i + 1}/{len(job.stages)} {stage.name}: {stage.job.kind}, {takes}")
        training = _training(stage)
        if training is not None:
            show(training)


def _training(stage: Stage) -> TrainJob | None:
    from orchestrator.job import TrainJob

    return stage.job if isinstance(stage.job, TrainJob) else None


def _stage_inputs(stage: Stage) -> list[str]:
    return [f"{found.key} from {found.stage}" for found in stage.references]
