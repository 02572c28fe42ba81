"""From a job file and KEY=VALUE overrides to a checked job, with errors that name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.errors import RequestError, suggest
from orchestrator.job.base import CustomPart
from orchestrator.job.pack import PackJob
from orchestrator.job.parts import check_parts
from orchestrator.job.train import TrainJob

Job = PackJob | TrainJob
KINDS: dict[str, type[PackJob] | type[TrainJob]] = {"pack": PackJob, "train": TrainJob}

Lines = dict[tuple[str | int, ...], int]


def load_job(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Job:
    """Read a job file, apply overrides (`scale.workers=4`), and check every key and value.

    Raises:
        RequestError: one line per mistake, with file, line and a suggestion.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"cannot read the job file: {error}", where=str(path), mend="name a YAML job file"
        ) from None
    data, lines = parse_yaml(text, str(path))
    return build_job(data, overrides, where=str(path), lines=lines)


def build_job(
    data: Any,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    where: str = "job",
    lines: Lines | None = None,
) -> Job:
    """A checked job from plain data (what YAML or an MLflow run holds)."""
    if not isinstance(data, dict):
        raise RequestError(
            "a job is a mapping with a 'kind'", where=where, mend="see: orchestrator jobs schema"
        )
    for override in overrides:
        _apply(data, override)
    kind = data.get("kind")
    if kind not in KINDS:
        mend = suggest(str(kind), list(KINDS)) if kind else "add 'kind: train'"
        raise RequestError(f"unknown job kind '{kind}'", where=where, mend=mend)
    try:
        job = KINDS[str(kind)].model_validate(data)
    except ValidationError as error:
        raise _explain(error, KINDS[str(kind)], where, lines or {}) from None
    check_parts(job)
    return job


def parse_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """YAML as plain data, and the line of every key, by its path."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RequestError(
            f"not valid YAML: {problem}", where=f"{where}{line}", mend="mend the file"
        ) from None
    lines: Lines = {}
    if node is not None:
        _collect_lines(node, (), lines, where)
    return data, lines


def _collect_lines(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, where: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            if here in lines:
                raise RequestError(
                    f"key '{key.value}' stands twice",
                    where=f"{where}:{key.start_mark.line + 1}",
                    mend=f"the first is on line {lines[here]}; keep one",
                )
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _collect_lines(item, (*path, i), lines, where)


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one dotted key: `scale.workers=4`, `objective.masks.0.blocks=4`."""
    key, separator, raw = override.partition("=")
    if not separator or not key:
        raise RequestError(
            f"'{override}' is not KEY=VALUE", where="overrides", mend="write scale.workers=4"
        )
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    *parents, last = key.split(".")
    here: Any = data
    for name in parents:
        here = _step_into(here, name, key)
    if isinstance(here, list):
        here[_position(here, last, key)] = value
    else:
        if last == "source":
            here.pop("sources", None)
        elif last == "sources":
            here.pop("source", None)
        here[last] = value


def _step_into(here: Any, name: str, key: str) -> Any:
    if isinstance(here, list):
        return here[_position(here, name, key)]
    if here.get(name) is None:
        here[name] = {}
    if isinstance(here[name], str) and name in ("encoder", "model"):
        # A shorthand gives way to its long form: `model.encoder=vit-tiny` then `...dim=96`.
        here[name] = {}
    if not isinstance(here[name], (dict, list)):
        raise RequestError(
            f"'{name}' is a value, not a section", where=f"overrides: {key}", mend="check the key"
        )
    return here[name]


def _position(here: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(here):
        raise RequestError(
            f"'{name}' is not a position of a list of {len(here)}",
            where=f"overrides: {key}",
            mend="count from 0",
        )
    return int(name)


def _explain(
    error: ValidationError, model: type[BaseModel], where: str, lines: Lines
) -> RequestError:
    """Pydantic's errors as sentences: file, line, key, what is wrong, what was meant."""
    rows = []
    for item in error.errors(include_url=False):
        path = tuple(part for part in item["loc"] if not _is_tag(part))
        line = _nearest_line(path, lines)
        spot = f"{where}:{line}" if line else where
        rows.append(f"{spot}: {'.'.join(map(str, path)) or 'job'}: {_reason(item, model)}")
    return RequestError(
        "; ".join(row.removeprefix(f"{where}: ") for row in rows[:1])
        if len(rows) == 1
        else "\n".join([f"{len(rows)} mistakes", *rows]),
        mend=f"every key, its unit and default: orchestrator jobs schema {_kind_of(model)}",
    )


def _kind_of(model: type[BaseModel]) -> str:
    return next(kind for kind, cls in KINDS.items() if cls is model)


_TAGS = {"vit", "custom", "vjepa2", "multiblock", "future", "crop-flip"}


def _is_tag(part: str | int) -> bool:
    """Pydantic puts the chosen tag of a union into an error's path; a user never wrote it."""
    return part in _TAGS


def _nearest_line(path: tuple[str | int, ...], lines: Lines) -> int | None:
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def _reason(item: Any, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, item["loc"][:-1])
        return f"unknown key; {suggest(str(item['loc'][-1]), known)}" if known else "unknown key"
    if item["type"] == "missing":
        return "this key is required"
    if item["type"] == "union_tag_invalid":
        return f"unknown kind {item['ctx']['tag']!r}; known: {item['ctx']['expected_tags']}"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = item.get("input")
    return f"{message} (got {given!r})" if isinstance(given, (str, int, float, bool)) else message


def _keys_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys that a section knows, by walking the schema along an error's path."""
    candidates: list[type[BaseModel]] = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        if _is_tag(part):
            candidates = [c for c in candidates if _tag_of(c) == part] or candidates
            continue
        candidates = [
            found
            for c in candidates
            for name, field in c.model_fields.items()
            if part in (name, field.alias)
            for found in _models_in(field.annotation)
        ]
    return sorted({f.alias or n for c in candidates for n, f in c.model_fields.items()})


def _tag_of(model: type[BaseModel]) -> str:
    if issubclass(model, CustomPart):
        return "custom"
    field = model.model_fields.get("kind")
    return str(field.default) if field else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]


def job_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a job kind, with descriptions, defaults and bounds."""
    if kind not in KINDS:
        raise RequestError(f"unknown job kind '{kind}'", mend=suggest(kind, list(KINDS)))
    return TypeAdapter(KINDS[kind]).json_schema(by_alias=True)
