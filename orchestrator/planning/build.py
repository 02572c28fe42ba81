"""Build the solver of a job."""

from __future__ import annotations

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.config.planning import CEM, AnySolver
from orchestrator.job.loading.custom_components import component_config, import_component
from orchestrator.planning.base import Solver
from orchestrator.planning.cem import CEMSolver
from orchestrator.planning.mppi import MPPISolver


def build_solver(config: AnySolver) -> Solver:
    """The solver of a job's `planning.solver`.

    Raises:
        RequestError: an import path names no solver.
    """
    if isinstance(config, CEM):
        return CEMSolver(config)
    if not isinstance(config, CustomComponent):
        return MPPISolver(config)
    made = import_component(config.kind)(component_config(config))
    if not isinstance(made, Solver):
        raise RequestError(
            f"{config.kind} makes no solver: it has no `solve`",
            where="planning.solver",
            hint="follow orchestrator.planning.base: Solver",
        )
    return made
