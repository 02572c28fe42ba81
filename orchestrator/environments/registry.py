"""Which world a name means: one of ours, a gymnasium environment, or a class of one's own."""

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
GYM_PREFIX = "gym/"  # and behind it the id of a gymnasium environment


def build_environment(name: str, size: int = 64) -> Environment:
    """The world behind a name, with square pictures of `size` pixels.

    Args:
        name: a key of `ENVIRONMENTS`, `gym/ID` for a gymnasium environment, or
            `package.module:Name` for a class that is an `Environment`.

    Raises:
        RequestError: there is no such world.
    """
    made = environment_class(name)
    if name.startswith(GYM_PREFIX):
        return import_component(GYM_ENVIRONMENT)(name.removeprefix(GYM_PREFIX), size)  # type: ignore[no-any-return]
    return made(size)


def build_collector(name: str) -> Collector:
    """Who makes videos in a world: new for every episode, since it may remember where it goes.

    Raises:
        RequestError: there is no such world.
    """
    return environment_class(name).make_collector()


def environment_class(name: str) -> type[Environment]:
    """The class behind a name.

    Raises:
        RequestError: there is no such world.
    """
    from orchestrator.environments.base import Environment

    if name.startswith(GYM_PREFIX):
        import_component("orchestrator.environments.gymnasium:check_environment_id")(
            name.removeprefix(GYM_PREFIX)
        )
        return import_component(GYM_ENVIRONMENT)  # type: ignore[no-any-return]
    if name not in ENVIRONMENTS and ":" not in name:
        raise RequestError(
            f"no world '{name}'", where="world", hint=suggest(name, [*ENVIRONMENTS, "gym/ID"])
        )
    found = import_component(ENVIRONMENTS.get(name, name))
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise RequestError(
            "not a world",
            where=name,
            hint="see orchestrator.environments.base.Environment, and subclass it",
        )
    return found
