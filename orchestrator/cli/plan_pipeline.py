"""`orchestrator plan` of a pipeline: the plan of every stage that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.job import Job, PipelineJob, Stage


def plan_pipeline(
    job: PipelineJob,
    show: Callable[[Job], None],
    plain: Callable[[Job], dict[str, Any] | None],
    *,
    json: bool,
) -> None:
    """Check that the stages fit each other, then show the plan of each.

    Args:
        show: prints the plan of one stage's job.
        plain: the same as plain data; None where its kind has no plan.

    Raises:
        RequestError: a stage does not fit a former one, or the cluster.
    """
    from orchestrator.cli.output import print_json
    from orchestrator.pipeline.compatibility import check_stages

    check_stages(job, local=False)
    if json:
        stages = [
            {
                "name": stage.name,
                "kind": stage.job.kind,
                "from": _stage_inputs(stage),
                "plan": plain(stage.job),
            }
            for stage in job.stages
        ]
        print_json({"name": job.name, "stages": stages})
        return
    for i, stage in enumerate(job.stages):
        inputs = ", ".join(_stage_inputs(stage)) or "of no former stage"
        gap = "\n" if i else ""
        print(f"{gap}stage {i + 1}/{len(job.stages)} {stage.name}: {stage.job.kind}, {inputs}")
        show(stage.job)


def _stage_inputs(stage: Stage) -> list[str]:
    return [f"{found.key} from {found.stage}" for found in stage.references]
