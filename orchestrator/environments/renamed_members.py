"""Accept the member names that environments had before: subclasses written with them still work."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

OLD_ENVIRONMENT_MEMBERS = {
    "rate": "control_rate",
    "restorable": "can_set_state",
    "restore": "set_state",
    "reached": "is_success",
    "worthwhile": "is_nontrivial",
    "judged": "success_features",
    "draw": "sample_state",
    "begin": "start_episode",
    "collector": "make_collector",
    "roll": "rollout",
    "picture": "render_state",
}
OLD_RIGID_BODY_MEMBERS = {
    "bounds": "state_bounds",
    "stage": "build_space",
    "drive": "apply_action",
    "read": "read_state",
    "after": "next_state",
}


class OldAttribute:
    """An old name of an attribute: reads and writes go to the new name."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __get__(self, instance: object | None, owner: type) -> Any:
        return getattr(owner if instance is None else instance, self.new)

    def __set__(self, instance: object, value: Any) -> None:
        setattr(instance, self.new, value)


def accept_old_members(cls: type, renamed: Mapping[str, str]) -> None:
    """Give a class each of its own members under both names, so that either can be overridden,
    called, and reached by `super()`.

    Args:
        cls: the class; members that it inherits are its base classes' affair.
        renamed: old name to new name.

    Warns:
        DeprecationWarning: once, with the new names, if the class defines members by old names.
    """
    defined = dict(vars(cls))
    old_names = [old for old, new in renamed.items() if old in defined and new not in defined]
    for old in old_names:
        setattr(cls, renamed[old], defined[old])
    for old, new in renamed.items():
        if new in vars(cls) and not _is_method(vars(cls)[new]):
            # Not a second value: an assignment to either name has to change both.
            setattr(cls, old, OldAttribute(new))
        elif new in defined and old not in defined:
            setattr(cls, old, defined[new])
    if old_names:
        names = ", ".join(f"{old} is now {renamed[old]}" for old in old_names)
        warnings.warn(f"{cls.__qualname__}: {names}", DeprecationWarning, stacklevel=3)


def _is_method(member: object) -> bool:
    return callable(member) or isinstance(member, (classmethod, staticmethod))
