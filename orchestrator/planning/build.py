"""The solver that a job names."""

from __future__ import annotations

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomPart
from orchestrator.job.config.planning import CEM, AnySolver
from orchestrator.job.loading.custom_components import import_part, part_config
from orchestrator.planning.base import Solver
from orchestrator.planning.cem import CrossEntropy
from orchestrator.planning.mppi import PathIntegral


def build_solver(config: AnySolver) -> Solver:
    """The solver of a job's `planning.solver`.

    Raises:
        RequestError: an import path names no solver.
    """
    if isinstance(config, CEM):
        return CrossEntropy(config)
    if not isinstance(config, CustomPart):
        return PathIntegral(config)
    made = import_part(config.kind)(part_config(config))
    if not isinstance(made, Solver):
        raise RequestError(
            f"{config.kind} makes no solver: it has no `solve`",
            where="planning.solver",
            mend="follow orchestrator.planning.base: Solver",
        )
    return made
