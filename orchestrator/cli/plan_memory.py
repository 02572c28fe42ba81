"""The table of a rank's memory by ZeRO stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.output import print_table
from orchestrator.text import format_bytes

if TYPE_CHECKING:
    from orchestrator.estimate import MemoryEstimate


def print_memory_table(
    title: str, rows: Sequence[tuple[MemoryEstimate, str]], fits: Sequence[str] = ()
) -> None:
    """A row for each way to keep the training's state; `fits` gives each an answer more.

    `peak` is the sum of what is kept and of what a step adds at the moment where that is most.
    """
    head = [title, "params", "gradients", "optimizer", "teacher", "a step adds",
            "at its", "peak", "host"]  # fmt: skip
    table = []
    for m, name in rows:
        kept = (m.parameters, m.gradients, m.optimizer, m.teacher)
        table.append(
            [
                name,
                *map(format_bytes, kept),
                format_bytes(m.step),
                m.moment,
                format_bytes(m.device),
                format_bytes(m.host),
            ]
        )
    if fits:
        head.append("fits")
        table = [[*row, answer] for row, answer in zip(table, fits, strict=True)]
    print_table(head, table, numbers=len(head) - 1)
