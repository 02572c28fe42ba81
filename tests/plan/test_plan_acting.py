"""The plan's figures of models that act, against the built model and torch's own counters."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.estimate import estimate_job
from orchestrator.estimate.zero3_persistent import persistent_elements
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives import ClipSets, build_objective, randomly_initialized_teacher
from orchestrator.job import build_job, job_dict
from tests.support.estimates import planned_job

MEANS = "action_mean: [0, 0], action_std: [1, 1], state_mean: [0, 0, 0], state_std: [1, 1, 1]"
ACT = f"statistics: {{{MEANS}}}"
TEACHER = "teacher: t, encoder: {dim: 48, depth: 2, heads: 4}"
TOLD = [
    ("{kind: lewm, slices: 8, hidden: 40}", f"{{block: 5, {ACT}}}"),
    ("{kind: lewm, slices: 8, hidden: 40, rollout: 3}", f"{{block: 2, {ACT}}}"),
    (
        "{kind: lewm, slices: 8, hidden: 40, embed: 5, pool: places, inverse: 1}",
        f"{{block: 3, {ACT}}}",
    ),
    (
        "{kind: lewm, slices: 8, hidden: 40, embed: 6, states: {numbers: [0, 2], angles: [1]}}",
        f"{{block: 2, {ACT}}}",
    ),
    (f"{{kind: vjepa2ac, {TEACHER}}}", f"{{block: 5, {ACT}}}"),
    (f"{{kind: vjepa2ac, {TEACHER}, rollout: 3}}", f"{{actions: change, block: 5, {ACT}}}"),
]


@pytest.mark.parametrize(("objective", "act"), TOLD)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_told_of_actions_costs_what_torch_counts(
    objective: str, act: str, checkpointing: bool
) -> None:
    lewm = "lewm" in objective
    job = planned_job(
        f"objective={objective}",
        f"data.actions={act}",
        f"model.encoder.attention={'moment' if lewm else 'clip'}",
        f"model.tubelet={1 if lewm else 2}",
    )
    built, video = build_objective(job), torch.randn(4, 3, 8, 32, 32)
    built.set_activation_checkpointing(checkpointing)
    fixed, planned = randomly_initialized_teacher(job), estimate_job(job)
    parameters, flops, width = (
        planned.parameters,
        planned.flops,
        job.data.actions and job.data.actions.action_dim,
    )
    assert parameters is not None
    assert flops is not None
    assert isinstance(width, int)
    sizes = [p.numel() for p in built.parameters()]
    assert (parameters.trained, parameters.untold) == (sum(sizes), False)
    assert parameters.fixed == (sum(p.numel() for p in fixed.parameters()) if fixed else 0)
    assert persistent_elements(job) == sum(size for size in sizes if size <= 100_000)
    motion, targets = (
        ActionBatch(torch.randn(4, 7, width), torch.randn(4, 8, 3)),
        ClipSets.single_set(video),
    )
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        said = built.targets(fixed, video) if fixed else targets
        built(video, [], said, motion=motion).loss.sum().backward()
    again = flops.recomputed if checkpointing else 0.0
    assert flops.total + again == counter.get_total_flops()
    assert all(row.device > 0 for row in planned.memory)

    # Before the data is read nobody knows how wide an action is.
    unread = estimate_job(build_job(job_dict(job), ["data.actions.statistics=null"])).parameters
    assert unread is not None
    assert unread.untold
    narrow = job.model.predictor.dim
    maps = [4 * narrow] if lewm else [narrow] * (2 if "change" in act else 1)
    done = width * (2 * 5 + 1) if "inverse" in objective else 0
    assert unread.trained == parameters.trained - sum(width * wide for wide in maps) - done
