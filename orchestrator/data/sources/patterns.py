"""Patterns of tars: `clips-{000..127}.tar`."""

from __future__ import annotations

import itertools
import re

from orchestrator.errors import RequestError


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..010}.tar` and `{x,y}.tar` as lists, like a shell.

    Raises:
        RequestError: braces that are neither a range nor a list.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_expand_brace(p, pattern) if i % 2 else [p] for i, p in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _expand_brace(text: str, pattern: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if numbers:
        first, last = numbers.groups()
        return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    if "," in text:
        return text.split(",")
    raise RequestError(
        f"'{{{text}}}' is neither a range nor a list", where=pattern, hint="write {000..127}"
    )
