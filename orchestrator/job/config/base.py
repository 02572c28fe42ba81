"""What every section of a job file has in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    model_validator,
)
from pydantic_core import PydanticCustomError

from orchestrator.job.config.former_names import with_present_keys

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name that is safe as a folder, an MLflow run name and a Ray job id."""


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the first of {list(value)} is above the second")
    return value


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)]
"""Two positive numbers, the smaller first."""


class Section(BaseModel):
    """A part of a job file: unknown keys are refused, values cannot change afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, data: Any) -> Any:
        return with_present_keys(cls, data) if isinstance(data, dict) else data


class CustomComponent(BaseModel):
    """A user's own part, named by its import path, with keys of its own.

    `kind: package.module:Name`. The named object carries a pydantic model as its attribute
    `Config`; the keys beside `kind` are validated by it (`job/loading/custom_components.py`).
    """

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    """Import path, `package.module:Name`."""

    def options(self) -> dict[str, Any]:
        """The keys beside `kind`, as the file gave them."""
        return dict(self.model_extra or {})


def component_tag(value: Any, default: str = "") -> str:
    """The discriminator of a part: 'custom' for an import path, else the kind itself."""
    kind = value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", "")
    return "custom" if isinstance(kind, str) and ":" in kind else str(kind)


def field_error(key: str, text: str) -> PydanticCustomError:
    """An error about several keys that is shown at one of them (`data.size`), with its line."""
    return PydanticCustomError("at", "{text}", {"key": key, "text": text})
