"""The live table of a sweep: trial, the values that vary, step, objective, state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.job import TuneJob
from orchestrator.tuning.trial_store import Entry


def head_of(job: TuneJob) -> list[str]:
    """The columns' names; a key by its last part where that says which it is."""
    last = [key.rpartition(".")[2] for key in job.space]
    short = [
        name if last.count(name) == 1 else key for key, name in zip(job.space, last, strict=True)
    ]
    return ["trial", *short, "step", "objective", "state"]


def rows_of(
    job: TuneJob, entries: Sequence[Entry], doing: Mapping[int, tuple[str, int]]
) -> list[list[str]]:
    """A row for each trial that was begun: first those that run, then the others, by number.

    Args:
        doing: what trials of this launch do now, and after how many steps.
    """
    rows = []
    for entry in sorted(entries, key=lambda one: (one.final, one.number)):
        now, step = doing.get(entry.number, ("", 0))
        rows.append(
            [
                str(entry.number) + (f" of {entry.parent}" if entry.parent is not None else ""),
                *(shown(entry.point[key]) if key in entry.point else "" for key in job.space),
                f"{max(step, entry.steps):,}/{job.steps:,}" + ("" if entry.final else f" {now}"),
                "" if entry.value is None else f"{entry.value:.4f}",
                state_of(entry),
            ]
        )
    return rows


def state_of(entry: Entry) -> str:
    """What became of a trial, and why."""
    shut = ", ".join(entry.rungs[-1]["shut"]) if entry.rungs else ""
    reason = entry.error.splitlines()[0] if entry.error else shut
    return f"{entry.state}: {reason}" if reason else entry.state


def best_of(entries: Sequence[Entry]) -> float | None:
    """The best objective of the trials that are done."""
    values = [one.value for one in entries if one.state == "done" and one.value is not None]
    return max(values, default=None)


def shown(value: Any) -> str:
    """A value of a point, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return str(value.get("kind", value))
    return str(value)
