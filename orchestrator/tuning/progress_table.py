"""The live table of a sweep: trial, the values that vary, step, objective, state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.job import TuneJob
from orchestrator.tuning.trial_store import TrialRecord


def table_header(job: TuneJob) -> list[str]:
    """The columns' names; a key by its last part where that says which it is."""
    last = [key.rpartition(".")[2] for key in job.space]
    short = [
        name if last.count(name) == 1 else key for key, name in zip(job.space, last, strict=True)
    ]
    return ["trial", *short, "step", "objective", "state"]


def table_rows(
    job: TuneJob, entries: Sequence[TrialRecord], trial_phases: Mapping[int, tuple[str, int]]
) -> list[list[str]]:
    """A row for each trial that was begun: first those that run, then the others, by number.

    Args:
        trial_phases: what trials of this launch do now, and after how many steps.
    """
    rows = []
    for entry in sorted(entries, key=lambda one: (one.is_final, one.number)):
        now, step = trial_phases.get(entry.number, ("", 0))
        rows.append(
            [
                str(entry.number) + (f" of {entry.parent}" if entry.parent is not None else ""),
                *(
                    format_value(entry.point[key]) if key in entry.point else ""
                    for key in job.space
                ),
                f"{max(step, entry.steps):,}/{job.steps:,}" + ("" if entry.is_final else f" {now}"),
                "" if entry.objective is None else f"{entry.objective:.4f}",
                describe_state(entry),
            ]
        )
    return rows


def describe_state(entry: TrialRecord) -> str:
    """What became of a trial, and why."""
    shut = ", ".join(entry.rungs[-1]["shut"]) if entry.rungs else ""
    reason = entry.error.splitlines()[0] if entry.error else shut
    return f"{entry.state}: {reason}" if reason else entry.state


def best_objective(entries: Sequence[TrialRecord]) -> float | None:
    """The best objective of the trials that are done."""
    values = [one.objective for one in entries if one.state == "done" and one.objective is not None]
    return max(values, default=None)


def format_value(value: Any) -> str:
    """A value of a point, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return str(value.get("kind", value))
    return str(value)
