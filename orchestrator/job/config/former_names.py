"""Keys and values of job files that had another name: old files stay valid, run records readable.

A field says it beside its type: `Annotated[Actions | None, FormerName("act")]`. Reading accepts
both names. A job's identity is written with the former ones, so that a run which an earlier version
began is still the same run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class FormerName:
    """The former name of a field's key, and of its values: {former: present}."""

    key: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def former_value(self, value: Any) -> Any:
        """The value as an earlier version wrote it."""
        return next((old for old, new in self.values.items() if new == value), value)


def former_name_of(info: FieldInfo) -> FormerName:
    """The former names that a field states."""
    return next((one for one in info.metadata if isinstance(one, FormerName)), FormerName())


def key_of(name: str, info: FieldInfo) -> str:
    """A field's key as a file spells it."""
    return info.alias or name


def with_present_keys(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of one section under their present names; sections inside stay.

    Raises:
        ValueError: a key is given under both of its names.
    """
    present = dict(data)
    for name, info in model.model_fields.items():
        former, key = former_name_of(info), key_of(name, info)
        if former.key and former.key in present:
            if key in present:
                raise ValueError(f"'{former.key}' is now '{key}'; give one of them")
            present[key] = present.pop(former.key)
        if former.values and isinstance(present.get(key), str):
            present[key] = former.values.get(present[key], present[key])
    return present


def former_dict(model: BaseModel, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """What `model_dump(by_alias=True)` gave, with the former names of keys and values."""
    fields = type(model).model_fields
    known = {key_of(name, info): (name, info) for name, info in fields.items()}
    former: dict[str, Any] = {}
    for key, value in dumped.items():
        if key not in known:
            former[key] = value  # a component's own key
            continue
        name, info = known[key]
        mark = former_name_of(info)
        former[mark.key or key] = _former_value(getattr(model, name), value, mark)
    return former


def former_dump(model: BaseModel, *, without: Collection[str] = ()) -> dict[str, Any]:
    """A section as plain data under former names, as digests and protocols hash it.

    `without`: former names of keys that are left out.
    """
    whole = former_dict(model, model.model_dump(mode="json", by_alias=True))
    return {key: value for key, value in whole.items() if key not in without}


def _former_value(value: Any, dumped: Any, mark: FormerName) -> Any:
    if isinstance(value, BaseModel):
        return former_dict(value, dumped)
    if isinstance(value, (list, tuple)):
        return [_former_value(one, text, mark) for one, text in zip(value, dumped, strict=True)]
    return mark.former_value(dumped) if mark.values else dumped


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_of(argument)


def matching_sections(annotation: Any, value: Mapping[str, Any]) -> list[type[BaseModel]]:
    """Of those, the ones that a mapping can be: by its `kind`, where they have one."""
    sections = list(sections_of(annotation))
    return [one for one in sections if _can_be(one, value)]


def _can_be(section: type[BaseModel], value: Mapping[str, Any]) -> bool:
    info = section.model_fields.get("kind")
    if info is None:
        return True
    kinds = {str(one) for one in get_args(info.annotation)}
    given = str(value.get("kind", info.default))
    return former_name_of(info).values.get(given, given) in kinds
