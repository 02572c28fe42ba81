"""Training objectives: one file each, one function that builds the one a job names."""

from __future__ import annotations

import torch

from orchestrator.jepa.objectives.base import Masks, Objective, ObjectiveOutput
from orchestrator.jepa.objectives.batch_statistic import (
    BatchStatisticObjective,
    ClipSets,
    SIGRegObjective,
)
from orchestrator.jepa.objectives.causal.objective import CausalObjective
from orchestrator.jepa.objectives.dynamics.objective import DynamicsObjective
from orchestrator.jepa.objectives.frozen.objective import (
    FrozenObjective,
    randomly_initialized_teacher,
)
from orchestrator.jepa.objectives.lejepa.objective import LeJEPAObjective
from orchestrator.jepa.objectives.lewm.objective import LeWMObjective
from orchestrator.jepa.objectives.pixels.objective import PixelsObjective
from orchestrator.jepa.objectives.supervised.objective import SupervisedObjective
from orchestrator.jepa.objectives.vjepa2.objective import VJEPA2Objective
from orchestrator.jepa.objectives.vjepa2ac.objective import VJEPA2ACObjective
from orchestrator.jepa.objectives.vjepa21.objective import VJEPA21Objective
from orchestrator.job import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    CausalPrediction,
    FrozenTeacher,
    LatentDynamics,
    LeJEPA,
    LeWM,
    PixelPrediction,
    Supervised,
    TrainJob,
    component_config,
    import_component,
)
from orchestrator.randomness import generator

__all__ = [
    "BatchStatisticObjective",
    "CausalObjective",
    "ClipSets",
    "DynamicsObjective",
    "FrozenObjective",
    "LeJEPAObjective",
    "LeWMObjective",
    "Masks",
    "Objective",
    "ObjectiveOutput",
    "PixelsObjective",
    "SIGRegObjective",
    "SupervisedObjective",
    "VJEPA2ACObjective",
    "VJEPA2Objective",
    "VJEPA21Objective",
    "build_objective",
    "randomly_initialized_teacher",
]


def build_objective(job: TrainJob) -> Objective:
    """The job's objective, on the CPU in float32, its weights drawn from `job.seed`.

    Every rank gets the same weights; the global generator is left as it was.

    Raises:
        RequestError: a part of the job's own cannot be imported or refuses its keys.
    """
    seed = int(generator(job.seed, 0, "weights").integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        match job.objective:
            case VJEPA2():
                return VJEPA2Objective(job.objective, job)
            case VJEPA21():
                return VJEPA21Objective(job.objective, job)
            case LeJEPA():
                return LeJEPAObjective(job.objective, job)
            case LeWM():
                return LeWMObjective(job.objective, job)
            case FrozenTeacher():
                return FrozenObjective(job.objective, job)
            case PixelPrediction():
                return PixelsObjective(job.objective, job)
            case CausalPrediction():
                return CausalObjective(job.objective, job)
            case LatentDynamics():
                return DynamicsObjective(job.objective, job)
            case VJEPA2AC():
                return VJEPA2ACObjective(job.objective, job)
            case Supervised():
                return SupervisedObjective(job.objective, job)
        objective: Objective = import_component(job.objective.kind)(
            component_config(job.objective), job
        )
        return objective
