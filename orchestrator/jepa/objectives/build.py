"""From a job to the module that is trained."""

from __future__ import annotations

import torch

from orchestrator.jepa.objectives.base import Objective
from orchestrator.job import TrainJob, component_config, import_component
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.config.objective import import_path
from orchestrator.randomness import generator


def build_objective(job: TrainJob) -> Objective:
    """The job's objective, on the CPU in float32, its weights drawn from `job.seed`.

    Every rank gets the same weights; the global generator is left as it was.

    Raises:
        RequestError: a part of the job's own cannot be imported or refuses its keys.
    """
    seed = int(generator(job.seed, 0, "weights").integers(2**63))
    config = job.objective
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        objective: Objective
        if isinstance(config, CustomComponent):
            objective = import_component(config.kind)(component_config(config), job)
        else:
            objective = import_path(config.objective_class)(config, job)
    return objective
