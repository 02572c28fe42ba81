"""Callbacks of a training, as a job file names them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from orchestrator.job.config.base import CustomComponent, component_tag


class BuiltInCallback(BaseModel):
    """A callback that comes with orchestrator, with keys of its own.

    Its name and keys are checked before a training starts (`training/callbacks/custom.py`).
    """

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: Annotated[str, Field(pattern=r"^[\w-]+$")]
    """Its name."""

    def options(self) -> dict[str, Any]:
        """The keys beside `kind`, as the file gave them."""
        return dict(self.model_extra or {})


def _as_mapping(value: Any) -> Any:
    """`NAME` alone means `{kind: NAME}`."""
    return {"kind": value} if isinstance(value, str) else value


def _tag(value: Any) -> str:
    return "custom" if component_tag(value) == "custom" else "built-in"


AnyCallback = Annotated[
    Annotated[BuiltInCallback, Tag("built-in")] | Annotated[CustomComponent, Tag("custom")],
    Discriminator(_tag),
    BeforeValidator(_as_mapping),
]
