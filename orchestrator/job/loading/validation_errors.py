"""Pydantic's errors as sentences: file, line, key, what is wrong, what was meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.errors import RequestError, suggest
from orchestrator.job.config.base import NAME_PATTERN, CustomComponent

KeyPath = tuple[str | int, ...]
SourceLocations = dict[KeyPath, str]
"""Where each key was written: `job.yaml:12`, or the override that set it."""


def validation_request_error(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    where: str,
    locations: SourceLocations,
    hint: str,
) -> RequestError:
    """One line per mistake: where it stands, the key, what is wrong and what was meant."""
    found = error.errors(include_url=False)
    wrong = [item["loc"] for item in found]
    rows = []
    for item in found:
        # A list whose entries are wrong is reported once more, as too short: once is enough.
        if any(other[: len(item["loc"])] == item["loc"] != other for other in wrong):
            continue
        if item["type"] == "missing" and _is_mistyped(item["loc"], found, model):
            continue
        path = _written_path(item, data)
        spot = nearest_location(path, locations) or where
        rows.append((spot, f"{dotted(path) or 'job'}: {_reason(item, model, dotted(path))}"))
    if len(rows) == 1:
        return RequestError(rows[0][1], where=rows[0][0], hint=hint)
    lines = [f"{spot}: {text}" for spot, text in rows]
    return RequestError("\n  ".join([f"{len(rows)} mistakes", *lines]), hint=hint)


def dotted(path: KeyPath) -> str:
    """`("objective", "masks", 0)` as an override spells it: `objective.masks.0`."""
    return ".".join(map(str, path))


def nearest_location(path: KeyPath, spots: SourceLocations) -> str | None:
    """Where a key was written, or the section around it when it was not."""
    return next((spots[path[:end]] for end in range(len(path), 0, -1) if path[:end] in spots), None)


def _written_path(item: Any, data: Any) -> KeyPath:
    """The path as the user wrote it: pydantic puts the tag of a chosen union between the keys."""
    if item["type"] == "at":
        return tuple(
            int(part) if part.isdigit() else part for part in item["ctx"]["key"].split(".")
        )
    path: list[str | int] = []
    loc = item["loc"]
    for i, part in enumerate(loc):
        written = part in data if isinstance(data, dict) else _is_position(part, data)
        if written:
            data = data[part]
        if written or (item["type"] == "missing" and i == len(loc) - 1):
            path.append(part)
    if item["type"] == "union_tag_invalid":
        path.append("kind")
    return tuple(path)


def _is_position(part: str | int, data: Any) -> bool:
    return isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)


def _reason(item: Any, model: type[BaseModel], written: str) -> str:
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return f"unknown key; {_suggest_key(item['loc'], model, written)}"
    if kind == "missing":
        return "this key is required"
    if kind == "union_tag_invalid":
        tags = [tag.strip("' ") for tag in item["ctx"]["expected_tags"].split(",")]
        return f"unknown kind '{item['ctx']['tag']}'; {suggest(item['ctx']['tag'], tags)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a section with keys is needed here (got {_shown(given)})"
    if kind in ("tuple_type", "list_type"):
        return f"a list is needed here (got {_shown(given)})"
    if kind == "too_short":
        return f"at least {item['ctx']['min_length']} entry is needed"
    if kind == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        return f"a name is letters, digits, '.', '_' and '-', 100 at most (got {_shown(given)})"
    if kind == "literal_error":
        return f"must be {item['ctx']['expected']} (got {_shown(given)})"
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    message = message[:1].lower() + message[1:]
    # A sentence of our own names the values already.
    own = kind in ("value_error", "at")
    return message if own else f"{message} (got {_shown(given)})"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggest_key(loc: KeyPath, model: type[BaseModel], written: str) -> str:
    """What an unknown key may have been: a mistyped neighbour, or one of another section."""
    key, known = str(loc[-1]), _keys_at(model, loc[:-1])
    hint = suggest(key, known) if known else "this section has no keys"
    if hint.startswith("known:"):
        elsewhere = [found for found in _dotted_keys(model) if found.rpartition(".")[2] == key]
        if written in elsewhere:
            return f"it belongs to another kind; {hint}"
        hint = f"did you mean '{elsewhere[0]}'?" if elsewhere else hint
    return hint


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        for section in _models_in(field.annotation):
            yield from _dotted_keys(section, f"{key}.")


def _is_mistyped(loc: KeyPath, found: Sequence[Any], model: type[BaseModel]) -> bool:
    """True when a missing key stands there misspelled, which is told already."""
    return any(
        other["type"] == "extra_forbidden"
        and other["loc"][:-1] == loc[:-1]
        and f"'{loc[-1]}'" in _suggest_key(other["loc"], model, "")
        for other in found
    )


def _keys_at(model: type[BaseModel], loc: KeyPath) -> list[str]:
    """The keys that a section knows, by walking the schema along an error's path."""
    candidates: list[type[BaseModel]] = [model]
    for part in loc:
        tagged = [c for c in candidates if _tag_of(c) == part]
        if tagged:
            candidates = tagged
        elif isinstance(part, str):
            # A part that is no key is the tag of a union, whose section is found already.
            candidates = [
                found
                for c in candidates
                for name, field in c.model_fields.items()
                if part in (name, field.alias)
                for found in _models_in(field.annotation)
            ] or candidates
    return sorted({f.alias or n for c in candidates for n, f in c.model_fields.items()})


def _tag_of(model: type[BaseModel]) -> str:
    if issubclass(model, CustomComponent):
        return "custom"
    field = model.model_fields.get("kind")
    return str(field.default) if field else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]
