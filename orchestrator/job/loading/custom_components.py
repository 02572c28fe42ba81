"""A user's own parts: an import path becomes an object and a checked config."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.errors import RequestError, suggest
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.loading.validation_errors import validation_request_error


def import_component(path: str) -> Any:
    """The object behind `package.module:Name`. The current folder is searched too.

    Raises:
        RequestError: the module or the name in it does not exist, or the module fails.
    """
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything at all
        raise RequestError(
            f"cannot import '{module_name}': {type(error).__name__}: {error}",
            where=path,
            hint="an import path is package.module:Name, importable from the current folder",
        ) from error
    part: Any = module
    for attribute in name.split("."):
        if not hasattr(part, attribute):
            names = [known for known in vars(part) if not known.startswith("_")]
            raise RequestError(
                f"module '{module_name}' has no '{name}'", where=path, hint=suggest(name, names)
            )
        part = getattr(part, attribute)
    return part


def component_config(part: CustomComponent) -> BaseModel:
    """The keys beside `kind`, checked by the part's own `Config` model.

    Raises:
        RequestError: the part has no `Config`, or a key or value is not what it takes.
    """
    target = import_component(part.kind)
    config = getattr(target, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise RequestError(
            "a part needs an attribute 'Config', a pydantic model of its keys",
            where=part.kind,
            hint="add `class Config(pydantic.BaseModel, extra='forbid'): ...` to it",
        )
    options = part.options()
    # Pydantic ignores unknown keys unless told otherwise; a mistyped key would do nothing.
    extra = config.model_config.get("extra") or "forbid"
    try:
        return config.model_validate(options, extra=extra)
    except ValidationError as error:
        mend = f"its keys: {', '.join(config.model_fields) or 'none'}"
        raise validation_request_error(error, config, options, part.kind, {}, mend) from None


def check_components(section: BaseModel) -> None:
    """Import and check every custom part of a job, so that a mistake is found before a start."""
    for part in _custom_components(section):
        component_config(part)


def _custom_components(value: Any) -> Iterator[CustomComponent]:
    if isinstance(value, CustomComponent):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _custom_components(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _custom_components(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _custom_components(item)
