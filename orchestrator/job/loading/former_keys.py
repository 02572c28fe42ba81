"""Former names of keys in the plain data of a job, before it is checked."""

from __future__ import annotations

import copy
import functools
import logging
import re
from typing import Any

from pydantic import BaseModel

from orchestrator.errors import RequestError
from orchestrator.job.config.former_names import former_name_of, key_of, matching_sections
from orchestrator.job.loading.validation_errors import KeyPath, SourceLocations, dotted

logger = logging.getLogger(__name__)

_FILE_AND_LINE = re.compile(r"(.+):\d+")


def rename_former_keys(
    data: Any,
    model: type[BaseModel],
    locations: SourceLocations,
    path: KeyPath = (),
) -> None:
    """Give the keys and values of a job's plain data their present names, in place.

    A file may have one of a key's names and an override the other: the later one counts.

    Raises:
        RequestError: one file gives a key under both of its names.
    """
    if not isinstance(data, dict):
        return
    for name, info in model.model_fields.items():
        former, key = former_name_of(info), key_of(name, info)
        if former.key and former.key in data:
            _rename_key(data, former.key, key, locations, path)
        value = data.get(key)
        if former.values and isinstance(value, str) and value in former.values:
            data[key] = former.values[value]
            _say_once(f"{dotted((*path, key))}: {value}", data[key], locations)
        entries = enumerate(value) if isinstance(value, list) else [(None, value)]
        for position, entry in entries:
            if not isinstance(entry, dict):
                continue
            below = (*path, key) if position is None else (*path, key, position)
            for section in matching_sections(info.annotation, entry):
                rename_former_keys(entry, section, locations, below)


def with_present_names(data: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A copy of recorded plain data of a job, under the present names."""
    present = copy.deepcopy(data)
    rename_former_keys(present, model, {})
    return present


def _rename_key(
    data: dict[str, Any], former: str, key: str, locations: SourceLocations, path: KeyPath
) -> None:
    old, new = (*path, former), (*path, key)
    if key in data and _in_one_file(locations.get(old), locations.get(new)):
        raise RequestError(
            f"'{dotted(old)}' is the former name of '{dotted(new)}', and both are given",
            where=locations[old],
            hint=f"give '{key}' only",
        )
    _say_once(dotted(old), dotted(new), locations)
    # A mapping keeps the order in which its keys were set.
    given = [data.pop(name) for name in list(data) if name in (former, key)]
    data[key] = functools.reduce(_merged, given)
    for place in [place for place in locations if place[: len(old)] == old]:
        locations[(*new, *place[len(old) :])] = locations.pop(place)


def _in_one_file(one: str | None, other: str | None) -> bool:
    """Whether two keys were written in one job file: their places are FILE:LINE."""
    files = [_FILE_AND_LINE.fullmatch(place or "") for place in (one, other)]
    return None not in files and len({file[1] for file in files if file}) == 1


def _merged(value: Any, later: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(later, dict):
        return later
    return value | {key: _merged(value.get(key), one) for key, one in later.items()}


def _say_once(former: str, present: str, locations: SourceLocations) -> None:
    """Only of what a person has written: recorded jobs of earlier versions are read silently."""
    if locations:
        _warn_once(former, present)


@functools.cache
def _warn_once(former: str, present: str) -> None:
    logger.warning("'%s' is now '%s'; the former name still works", former, present)
