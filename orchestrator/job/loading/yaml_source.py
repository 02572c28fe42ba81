"""YAML and KEY=VALUE overrides as plain data, with the place where each key was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import RequestError
from orchestrator.job.config.model import ENCODER_SIZES
from orchestrator.job.loading.validation_errors import KeyPath as KeyPath
from orchestrator.job.loading.validation_errors import SourceLocations
from orchestrator.paths import local_path

# A job file is a page of text. A video that was named by mistake is not read into memory.
_MAX_BYTES = 1_000_000


def read_text(path: Path) -> str:
    """The text of a job file.

    Raises:
        RequestError: it is missing, a folder, no text, no local file, or far too large for a job.
    """
    mend = "name a YAML job file, such as jobs/physics/quick.yaml"
    place = local_path(path)
    try:
        with place.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise RequestError("too large for a job file", where=str(path), hint=mend)
        return raw.decode("utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RequestError(
            f"cannot read the job file: {reason}", where=str(path), hint=mend
        ) from None
    except UnicodeDecodeError:
        raise RequestError(
            "not a text file, so not a job file", where=str(path), hint=mend
        ) from None


def parse_yaml(text: str, where: str) -> tuple[Any, SourceLocations]:
    """YAML as plain data, and the line of every key, by its path.

    Raises:
        RequestError: no valid YAML, a key that stands twice, or sections without end.
    """
    spots: SourceLocations = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _collect(node, (), spots, where)
        return yaml.safe_load(text), spots
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RequestError(
            f"not valid YAML: {problem}",
            where=f"{where}:{mark.line + 1}" if mark else where,
            hint=_yaml_hint(problem),
        ) from None
    except RecursionError:
        raise RequestError(
            "sections are nested without end", where=where, hint="a job has five levels at most"
        ) from None


def _yaml_hint(problem: str) -> str:
    if "'\\t'" in problem:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "quote a value that holds ': ', or mend the indentation"
    if "expected ',' or" in problem:
        return "inside brackets, quote text that holds one of : ? # , as '...'"
    return "check colons, brackets, quotes and the indentation around that line"


def _collect(node: yaml.Node, path: KeyPath, spots: SourceLocations, where: str) -> None:
    spots.setdefault(path, f"{where}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value if isinstance(key.value, str) else str(key.value))
            spot = f"{where}:{key.start_mark.line + 1}"
            if here in spots:
                first = spots[here].rpartition(":")[2]
                raise RequestError(
                    f"key '{key.value}' stands twice",
                    where=spot,
                    hint=f"the first is on line {first}; keep one",
                )
            spots[here] = spot
            _collect(value, here, spots, where)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _collect(item, (*path, i), spots, where)


def apply_override(data: dict[str, Any], override: str, locations: SourceLocations) -> None:
    """Set one dotted key in place: `scale.workers=4`, `objective.masks.0.blocks=4`.

    Raises:
        RequestError: it is no KEY=VALUE, or the key leads through a value or past a list's end.
    """
    key, separator, raw = override.partition("=")
    where = f"override '{override}'"
    if not separator or not all(key.split(".")):
        raise RequestError(
            "not KEY=VALUE", where=where, hint="write it like scale.workers=4, with no spaces"
        )
    set_key(data, key, _override_value(raw, where), where, locations)


def set_key(
    data: dict[str, Any], key: str, value: Any, source: str, locations: SourceLocations
) -> None:
    """Set one dotted key in place; `source` is who wants it.

    Raises:
        RequestError: the key leads through a value or past a list's end.
    """
    names = key.split(".")
    here: Any = data
    path: KeyPath = ()
    for i, name in enumerate(names[:-1]):
        step = _position(here, name, source) if isinstance(here, list) else name
        path = (*path, step)
        here = _section_at(here, step, names[i + 1], source)
    last = _position(here, names[-1], source) if isinstance(here, list) else names[-1]
    if last in ("source", "sources"):
        # One takes the place of the other.
        here.pop("sources" if last == "source" else "source", None)
    here[last] = value
    locations[(*path, last)] = source


def _override_value(raw: str, where: str) -> Any:
    """The value as YAML reads it; what it cannot read is plain text, unless it opens a list."""
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        if not raw.startswith(("[", "{", "'", '"')):
            return raw
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise RequestError(
            f"not a valid value: {problem}",
            where=where,
            hint="inside brackets, quote text that holds one of : ? # , as '...'",
        ) from None


def _section_at(here: Any, step: str | int, below: str, where: str) -> Any:
    """The section or list at `step`, made or spelled out where it must be."""
    value = here[step] if isinstance(step, int) else here.get(step)
    if value is None and below.isdigit():
        raise RequestError(
            f"the file gives no list '{step}' to change an entry of",
            where=where,
            hint=f"give the whole list: {step}=[...]",
        )
    if value is None:
        value = {}
    elif step == "encoder" and isinstance(value, str) and value in ENCODER_SIZES:
        # A size gives way to its numbers, so that one of them can be changed.
        value = dict(ENCODER_SIZES[value])
    elif step == "model" and isinstance(value, str):
        value = {"from": value}
    if not isinstance(value, (dict, list)):
        raise RequestError(
            f"'{step}' is a value ({value!r}), not a section", where=where, hint="check the key"
        )
    here[step] = value
    return value


def _position(here: list[Any], name: str, where: str) -> int:
    """The position in a list that a part of a key names, by number or as an entry's `name`."""
    names = [entry.get("name") for entry in here if isinstance(entry, dict)]
    if name in names and len(names) == len(here):
        return names.index(name)
    if not name.isdigit() or int(name) >= len(here):
        raise RequestError(
            f"'{name}' is no position in a list of {len(here)}",
            where=where,
            hint=f"count from 0 to {len(here) - 1}" if here else "the list is empty",
        )
    return int(name)
