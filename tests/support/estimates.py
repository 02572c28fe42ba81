"""A job to be planned and a batch for it, for the tests of plans."""

from __future__ import annotations

from typing import Any

import torch

from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.job import TrainJob, build_job
from orchestrator.randomness import generator


def planned_job(*overrides: str, **sections: Any) -> TrainJob:
    data = {
        "kind": "train",
        "name": "planned",
        "data": {"source": "physics://mixed?clips=1000", "size": 32, "frames": 8},
        "model": {
            "encoder": {"dim": 96, "depth": 3, "heads": 4},
            "patch": 8,
            "predictor": {"depth": 2, "dim": 48, "heads": 2},
        },
        "optim": {"steps": 100},
        "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        **sections,
    }
    job = build_job(data, list(overrides))
    assert isinstance(job, TrainJob)
    return job


def random_inputs(job: TrainJob, clips: int) -> tuple[torch.Tensor, list[tuple[torch.Tensor, Any]]]:
    """Normalised video and masks of `clips` clips."""
    video = torch.randn(clips, 3, job.data.frames, job.data.size, job.data.size)
    masks = []
    for part, sampler in enumerate(build_mask_samplers(job)):
        drawn = [sampler(generator(0, i, "masks", part)) for i in range(clips)]
        context, target = ([torch.from_numpy(pair[k]) for pair in drawn] for k in (0, 1))
        masks.append((torch.stack(context), torch.stack(target)))
    return video, masks
