"""Which world a name means: one of ours, a gymnasium environment, or a class of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import RequestError, suggest
from orchestrator.job import import_part

if TYPE_CHECKING:
    from orchestrator.environments.base import Collector, World

WORLDS = {
    "two-rooms": "orchestrator.environments.two_rooms:TwoRooms",
    "lever": "orchestrator.environments.lever:Lever",
    "drop": "orchestrator.environments.drop:Drop",
    "push-t": "orchestrator.environments.push_t:PushT",
}
GYM_WORLD = "orchestrator.environments.gymnasium:GymWorld"
GYM = "gym/"  # and behind it the id of a gymnasium environment


def build_world(name: str, size: int = 64) -> World:
    """The world behind a name, with square pictures of `size` pixels.

    Args:
        name: a key of `WORLDS`, `gym/ID` for a gymnasium environment, or `package.module:Name` for
            a class that is a `World`.

    Raises:
        RequestError: there is no such world.
    """
    made = world_class(name)
    if name.startswith(GYM):
        return import_part(GYM_WORLD)(name.removeprefix(GYM), size)  # type: ignore[no-any-return]
    return made(size)


def build_collector(name: str) -> Collector:
    """Who makes videos in a world: new for every episode, since it may remember where it goes.

    Raises:
        RequestError: there is no such world.
    """
    return world_class(name).collector()


def world_class(name: str) -> type[World]:
    """The class behind a name.

    Raises:
        RequestError: there is no such world.
    """
    from orchestrator.environments.base import World

    if name.startswith(GYM):
        import_part("orchestrator.environments.gymnasium:check_id")(name.removeprefix(GYM))
        return import_part(GYM_WORLD)  # type: ignore[no-any-return]
    if name not in WORLDS and ":" not in name:
        raise RequestError(
            f"no world '{name}'", where="world", mend=suggest(name, [*WORLDS, "gym/ID"])
        )
    found = import_part(WORLDS.get(name, name))
    if not (isinstance(found, type) and issubclass(found, World)):
        raise RequestError(
            "not a world",
            where=name,
            mend="see orchestrator.environments.base.World, and subclass it",
        )
    return found
