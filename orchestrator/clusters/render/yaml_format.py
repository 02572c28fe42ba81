"""YAML and comments, written the same way every time."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import yaml

from orchestrator.errors import RequestError

_WIDTH = 100
_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


class _Dumper(yaml.SafeDumper):
    """Keys in the order they were given, text of several lines as it reads, lists indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(data: Any) -> str:
    """Plain data as YAML."""
    # Lines are not folded: commands stay as they are typed.
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=10_000)


def documents(*objects: dict[str, Any]) -> str:
    """Several YAML documents, with their separators."""
    return "---\n" + "---\n".join(map(to_yaml, objects))


def comment(*paragraphs: str) -> str:
    """Lines of comment. A paragraph that begins with two spaces is a command: it is not wrapped."""
    lines = []
    for paragraph in paragraphs:
        commanded = paragraph.startswith("  ")
        for line in [paragraph] if commanded else textwrap.wrap(paragraph, _WIDTH - 2):
            lines.append(f"# {line}".rstrip())
    return "\n".join(lines) + "\n"


def header_comment(command: str) -> str:
    """What stands at the head of every file."""
    return comment(f"Rendered by: {command}", "Change the profile and render again, not this file.")


def kubernetes_name(name: str, max_length: int, what: str) -> str:
    """`name` as Kubernetes takes it: `_`, `.` and capitals become `-` and small letters.

    Raises:
        RequestError: nothing that Kubernetes takes can be made of it.
    """
    made = re.sub(r"[._]", "-", name.lower())
    if len(made) > max_length or not _DNS_LABEL.fullmatch(made):
        raise RequestError(
            f"{what} '{name}' is no name for Kubernetes",
            hint=f"use a-z, 0-9 and '-', a letter first, {max_length} at most",
        )
    return made


def quantity(count: int) -> str:
    """Bytes as Kubernetes writes them: `64Gi`, or the number where it is no round one."""
    for unit, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20)):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)
