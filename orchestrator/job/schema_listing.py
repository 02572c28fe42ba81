"""A job kind's schema as JSON schema, and as lines that read like an annotated job file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from orchestrator.errors import RequestError, suggest
from orchestrator.job.loading.load import KINDS

_REQUIRED = "..."


@dataclass(frozen=True)
class SchemaLine:
    """One key: where it stands, what it is when it is not given, and what it means.

    `value` is the default as YAML, `...` for a key that must be given, and empty for a section.
    """

    indent: int
    key: str
    value: str
    type: str
    text: str


def job_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a job kind, with descriptions, defaults and bounds.

    Raises:
        RequestError: there is no such kind.
    """
    if kind not in KINDS:
        raise RequestError(f"unknown job kind '{kind}'", hint=suggest(kind, list(KINDS)))
    return TypeAdapter(KINDS[kind]).json_schema(by_alias=True)


def schema_lines(kind: str) -> list[SchemaLine]:
    """Every key of a job kind, in the order of the schema, sections opened in place."""
    return schema_lines_of_json_schema(job_schema(kind))


def schema_lines_of_json_schema(schema: dict[str, Any]) -> list[SchemaLine]:
    """Every key of a JSON schema that pydantic made, sections opened in place."""
    return list(_section(schema, schema.get("$defs", {}), 0))


def _section(
    section: dict[str, Any], defs: dict[str, Any], indent: int, about: str = "", bullet: str = ""
) -> Iterator[SchemaLine]:
    """A section's keys. Its own description stands at its `kind` where a choice gives one."""
    required = section.get("required", [])
    for key, field in section["properties"].items():
        if key == "kind" and about:
            yield SchemaLine(indent, bullet + key, _kind(section), "", about)
        else:
            yield from _key(bullet + key, field, defs, indent, required=key in required)
        bullet = "  " if bullet else ""


def _key(
    key: str, field: dict[str, Any], defs: dict[str, Any], indent: int, *, required: bool
) -> Iterator[SchemaLine]:
    bullet = ""
    choices = _sections(field, defs)
    value = "" if choices and not isinstance(field.get("default"), int) else _value(field, required)
    text = _first_paragraph(field.get("description", ""))
    yield SchemaLine(indent, key, value, _type(field) + (", required" if required else ""), text)
    named = _sections(field.get("additionalProperties"), defs)
    if named:
        choices, indent = named, indent + 1
        yield SchemaLine(indent, "NAME", "", "", "One of them, under a name of your choice.")
    elif not choices:
        choices, bullet = _sections(field.get("items", {}), defs), "- "
    for i, section in enumerate(choices):
        about = _first_paragraph(section["description"]) if len(choices) > 1 else ""
        if i > 0:
            yield SchemaLine(indent + 1, "# or", "", "", "")
        deeper = indent + (2 if key.startswith(("- ", "  ")) else 1)  # below an entry of a list
        yield from _section(section, defs, deeper, about, bullet)


def _sections(field: Any, defs: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections that a key may hold."""
    if not isinstance(field, dict):  # `additionalProperties` may be true
        return []
    options = [
        option for given in field.get("anyOf", [field]) for option in given.get("oneOf", [given])
    ]
    refs = [option["$ref"] for option in options if "$ref" in option]
    return [defs[ref.removeprefix("#/$defs/")] for ref in refs]


def _kind(section: dict[str, Any]) -> str:
    kind = section["properties"]["kind"]
    by_import_path = ":" in kind.get("pattern", ":")
    return str(kind.get("const", "package.module:Name" if by_import_path else "NAME"))


def _value(field: dict[str, Any], required: bool) -> str:
    if "const" in field:
        return str(field["const"])
    if required:
        return _REQUIRED
    default = field.get("default")
    if isinstance(default, list) and default and isinstance(default[0], dict):
        return f"[{len(default)} entries]"
    return default if isinstance(default, str) else json.dumps(default)


def _type(field: dict[str, Any]) -> str:
    """What a key takes: `integer > 0`, `bf16 | fp32`, `list of ...`."""
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "oneOf" in field:
        return " or ".join(dict.fromkeys(_type(option) for option in field["oneOf"]))
    if "$ref" in field:
        return "section"
    if "const" in field:
        return "fixed"
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "prefixItems" in field:
        return f"[{', '.join(_type(item) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}s"
    if isinstance(field.get("additionalProperties"), dict):
        return f"{_type(field['additionalProperties'])} by name"
    name = str(field.get("type", "any value"))
    name = {"string": "text", "boolean": "true | false"}.get(name, name)
    return name + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    low = field.get("minimum")
    above, high = field.get("exclusiveMinimum"), field.get("maximum")
    if low is not None and high is not None:
        return f" {low} to {high}"
    parts = [
        f" >= {low}" if low is not None else "",
        f" > {above}" if above is not None else "",
        f" <= {high}" if high is not None else "",
    ]
    return ",".join(part for part in parts if part)


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`")
