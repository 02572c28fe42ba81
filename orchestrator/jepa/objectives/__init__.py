"""Training objectives: a folder for each, with its config, module, predictor and cost.

The names below are imported when they are first used: a job file reads the configs of this package,
and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First of all: it reads the configs of this package, in an order that does not depend on which
# module of either package a process imports first.
import orchestrator.job  # noqa: F401

if TYPE_CHECKING:
    from orchestrator.jepa.objectives.base import Masks, Objective, ObjectiveOutput
    from orchestrator.jepa.objectives.batch_statistic import (
        BatchStatisticObjective,
        ClipSets,
        SIGRegObjective,
    )
    from orchestrator.jepa.objectives.build import build_objective
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

_MODULES = {
    "BatchStatisticObjective": "batch_statistic",
    "CausalObjective": "causal.objective",
    "ClipSets": "batch_statistic",
    "DynamicsObjective": "dynamics.objective",
    "FrozenObjective": "frozen.objective",
    "LeJEPAObjective": "lejepa.objective",
    "LeWMObjective": "lewm.objective",
    "Masks": "base",
    "Objective": "base",
    "ObjectiveOutput": "base",
    "PixelsObjective": "pixels.objective",
    "SIGRegObjective": "batch_statistic",
    "SupervisedObjective": "supervised.objective",
    "VJEPA2ACObjective": "vjepa2ac.objective",
    "VJEPA2Objective": "vjepa2.objective",
    "VJEPA21Objective": "vjepa21.objective",
    "build_objective": "build",
    "randomly_initialized_teacher": "frozen.objective",
}
"""The module of each name."""

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
