"""What a job of any kind hands back when it has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

Row = tuple[str, str]
"""A line of the terminal's summary: a title, empty below another of the same, and its text."""

_TERMINAL_FIELDS = ("headline", "rows", "result", "outputs")


@dataclass(frozen=True)
class Outputs:
    """What later stages of a pipeline can start from; "" where the job makes no such thing."""

    model: str = ""
    """URI of the model that the job made."""

    data: str = ""
    """URI of the packed dataset."""

    features: str = ""
    """URI of the features."""


@dataclass(frozen=True)
class Outcome:
    """What a job that has ended made, measured and suggests to do next.

    The fields from `kind` to `next_steps` are what `run --json` prints, under these names.
    """

    kind: str
    name: str
    storage: str
    seconds: float
    dataset: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    tracking_uri: str = ""
    model_uri: str = ""
    checkpoint: str = ""
    steps: int = 0
    seconds_to_first_step: float | None = None
    clips_per_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    """With `profile`: seconds of each part of a step, on rank 0."""

    features: dict[str, Any] = field(default_factory=dict)
    """Of an embedding: uri, rows, shape, dtype, bytes, failed and short clips, digests."""

    verdict: dict[str, Any] = field(default_factory=dict)
    """Of an evaluation or a study: every number, with its interval; of a sweep: its trials."""

    probe: dict[str, Any] = field(default_factory=dict)
    """Of a probe: every number, with its interval."""

    report: str = ""
    """Path or URI of the HTML page that shows the result."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    """Of a pipeline: name, kind, state and outputs of each stage."""

    note: str = ""
    """Of a promotion: what it changed, and on what evidence."""

    next_steps: list[str] = field(default_factory=list)
    """Commands that work as they stand."""

    headline: str = ""
    """What was done, after the job's name: `20 steps in 3 min 12 s`."""

    rows: list[Row] = field(default_factory=list)
    """What the kind shows on the terminal; model, report and MLflow run are added to it."""

    result: str = ""
    """One line: where the result is. All that `--quiet` prints."""

    outputs: Outputs = Outputs()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`; what is only for the terminal is left out."""
        data = asdict(self)
        return {key: value for key, value in data.items() if key not in _TERMINAL_FIELDS}

    def all_rows(self) -> list[Row]:
        """The kind's rows, then where model, checkpoint, report and MLflow run are."""
        where = (
            ("model", self.model_uri),
            ("checkpoint", self.checkpoint),
            ("report", self.report),
            ("run", f"{self.run_id} in {self.tracking_uri}" if self.run_id else ""),
        )
        return [*self.rows, *(row for row in where if row[1])]
