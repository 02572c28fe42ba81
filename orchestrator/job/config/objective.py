"""The objective section: what is predicted, from what, and to what.

Built-in objectives are found by the import path of their config, so that this package imports none
of them by name: adding one adds a line to `OBJECTIVES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from orchestrator.job.config.base import CustomComponent, component_tag
from orchestrator.job.config.objective_base import (
    BuiltInObjective,
    ObjectiveConfig,
    UnstatedObjective,
)
from orchestrator.job.loading.custom_components import component_config

DEFAULT_OBJECTIVE = "vjepa2"

OBJECTIVES = {
    "vjepa2": "orchestrator.jepa.objectives.vjepa2.config:VJEPA2",
    "vjepa21": "orchestrator.jepa.objectives.vjepa21.config:VJEPA21",
    "lejepa": "orchestrator.jepa.objectives.lejepa.config:LeJEPA",
    "lewm": "orchestrator.jepa.objectives.lewm.config:LeWM",
    "vicreg": "orchestrator.jepa.objectives.vicreg.config:VICReg",
    "frozen": "orchestrator.jepa.objectives.frozen.config:FrozenTeacher",
    "pixels": "orchestrator.jepa.objectives.pixels.config:PixelPrediction",
    "supervised": "orchestrator.jepa.objectives.supervised.config:Supervised",
    "causal": "orchestrator.jepa.objectives.causal.config:CausalPrediction",
    "dynamics": "orchestrator.jepa.objectives.dynamics.config:LatentDynamics",
    "vjepa2ac": "orchestrator.jepa.objectives.vjepa2ac.config:VJEPA2AC",
}
"""Import path of the config of every built-in objective, by kind."""


def import_path(path: str) -> Any:
    """The object behind `package.module:Name`, of this package."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


_CONFIG_CLASSES: dict[str, type[BuiltInObjective]] = {
    kind: import_path(path) for kind, path in OBJECTIVES.items()
}

if TYPE_CHECKING:
    AnyObjective = BuiltInObjective | CustomComponent
else:
    AnyObjective = Annotated[
        Union[
            *(Annotated[config, Tag(kind)] for kind, config in _CONFIG_CLASSES.items()),
            Annotated[CustomComponent, Tag("custom")],
        ],
        Discriminator(lambda v: component_tag(v, DEFAULT_OBJECTIVE)),
    ]


def default_objective() -> BuiltInObjective:
    """The objective of a job that names none."""
    return _CONFIG_CLASSES[DEFAULT_OBJECTIVE].model_validate({})


def objective_config(objective: AnyObjective) -> ObjectiveConfig:
    """What an objective states: a built-in one itself, a user's own by its `Config`.

    Raises:
        RequestError: a user's own cannot be imported or refuses its keys.
    """
    if isinstance(objective, ObjectiveConfig):
        return objective
    config = component_config(objective)
    if isinstance(config, ObjectiveConfig):
        return config
    return UnstatedObjective(masks=tuple(getattr(config, "masks", ())))


def objective_config_class(kind: str) -> type[ObjectiveConfig]:
    """The capabilities of a kind; those that nothing is stated of where it is no built-in one."""
    return _CONFIG_CLASSES.get(kind, ObjectiveConfig)
