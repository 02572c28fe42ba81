"""Environments by name: a built-in one, a gymnasium environment, or a user's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import RequestError, suggest
from orchestrator.job import import_component

if TYPE_CHECKING:
    from orchestrator.environments.base import Collector, Environment

ENVIRONMENTS = {
    "two-rooms": "orchestrator.environments.two_rooms:TwoRooms",
    "lever": "orchestrator.environments.lever:Lever",
    "drop": "orchestrator.environments.drop:Drop",
    "push-t": "orchestrator.environments.push_t:PushT",
}
GYM_ENVIRONMENT = "orchestrator.environments.gymnasium:GymnasiumEnvironment"
GYM_PREFIX = "gym/"  # followed by the id of a gymnasium environment


def build_environment(name: str, size: int = 64) -> Environment:
    """Make the environment of a name.

    Args:
        name: a key of `ENVIRONMENTS`, `gym/ID` for a gymnasium environment, or
            `package.module:Name` for a subclass of `Environment`.
        size: side of its square images, in pixels.

    Raises:
        RequestError: there is no such environment.
    """
    made_by = environment_class(name)
    if name.startswith(GYM_PREFIX):
        return import_component(GYM_ENVIRONMENT)(name.removeprefix(GYM_PREFIX), size)  # type: ignore[no-any-return]
    return made_by(size)


def build_collector(name: str) -> Collector:
    """Make the collector of an environment. Make a new one for each episode: it has a state.

    Raises:
        RequestError: there is no such environment.
    """
    return environment_class(name).make_collector()


def environment_class(name: str) -> type[Environment]:
    """Resolve the class of an environment by its name.

    Raises:
        RequestError: there is no such environment.
    """
    from orchestrator.environments.base import Environment

    if name.startswith(GYM_PREFIX):
        import_component("orchestrator.environments.gymnasium:check_environment_id")(
            name.removeprefix(GYM_PREFIX)
        )
        return import_component(GYM_ENVIRONMENT)  # type: ignore[no-any-return]
    if name not in ENVIRONMENTS and ":" not in name:
        raise RequestError(
            f"no environment '{name}'",
            where="environment",
            hint=suggest(name, [*ENVIRONMENTS, "gym/ID"]),
        )
    component = import_component(ENVIRONMENTS.get(name, name))
    if not (isinstance(component, type) and issubclass(component, Environment)):
        raise RequestError(
            "not an environment",
            where=name,
            hint="subclass orchestrator.environments.base.Environment",
        )
    return component
