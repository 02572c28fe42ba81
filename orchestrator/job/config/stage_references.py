"""How one stage of a pipeline names what another one leaves: `stages:/pretrain/model`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STAGE_URI_PREFIX = "stages:/"

OUTPUT_OF_KIND: dict[str, str] = {
    "pack": "data",
    "train": "model",
    "tune": "model",
    "embed": "features",
}
"""What a stage of each kind leaves for later ones; other kinds leave nothing but numbers."""

INPUT_OF_KEY: dict[str, str] = {
    "from": "model",
    "model": "model",
    "teacher": "model",
    "source": "data",
    "uri": "data",
    "features": "features",
    "test": "features",
    "test_features": "features",
    "random": "features",
    "random_features": "features",
    "random_test": "features",
    "random_test_features": "features",
}
"""What each key that may refer to a stage takes."""


@dataclass(frozen=True)
class Reference:
    """A value of a stage's job that stands for what another stage will leave."""

    key: str
    """The job's dotted key: `model.from`."""

    stage: str
    output: str
    """`model`, `data` or `features`."""


def find_references(value: Any, prefix: str = "") -> list[Reference | tuple[str, str]]:
    """Every reference in a job's plain data; what only looks like one comes as (key, text)."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        if not isinstance(value, str) or not value.startswith(STAGE_URI_PREFIX):
            return []
        match = re.fullmatch(rf"{STAGE_URI_PREFIX}([^/]+)/([a-z]+)", value)
        return [Reference(prefix, *match.groups()) if match else (prefix, value)]
    return [
        found
        for key, item in items
        for found in find_references(item, f"{prefix}.{key}" if prefix else key)
    ]


def substitute_references(value: Any, resolve: Callable[[str, str], str]) -> Any:
    """Plain data with `left(stage, output)` in place of every reference."""
    if isinstance(value, Mapping):
        return {key: substitute_references(item, resolve) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [substitute_references(item, resolve) for item in value]
    found = find_references(value)
    if found and isinstance(found[0], Reference):
        return resolve(found[0].stage, found[0].output)
    return value
