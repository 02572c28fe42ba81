"""What `run` gives back of a job that has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunSummary:
    """What a person wants to know when a job has ended."""

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
    """Of an evaluation, a probe, a study or a sweep: the page that shows it."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    """Of a pipeline: name, kind and state of each stage, and what it left."""

    note: str = ""
    """Of a promotion: what it changed, and what spoke for it."""

    next_steps: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)
