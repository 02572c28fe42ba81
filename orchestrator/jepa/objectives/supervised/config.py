"""The keys of supervised classification, and what it states about itself."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from orchestrator.job.config.base import field_error
from orchestrator.job.config.objective_base import BuiltInObjective


class Supervised(BuiltInObjective):
    """Cross-entropy of a clip's class, read off the mean of its features by a linear head.

    The class stands in the clip's key: a packed dataset's keys begin with it, or hold it.
    """

    title = "Supervised"
    objective_class = "orchestrator.jepa.objectives.supervised.objective:SupervisedObjective"
    cost_class = "orchestrator.jepa.objectives.supervised.cost:SupervisedCost"

    kind: Literal["supervised"] = "supervised"
    """The objective."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Names of the classes."""

    label: str = "^[a-z]+"
    """Regular expression whose first match in a clip's key is its class."""

    @model_validator(mode="after")
    def _readable(self) -> Supervised:
        try:
            re.compile(self.label)
        except re.error as error:
            raise field_error("objective.label", f"no regular expression: {error}") from None
        if len(set(self.classes)) < len(self.classes):
            raise field_error("objective.classes", "a class is named twice")
        return self
