"""Where a step's time goes, without waiting for the device inside the step."""

from __future__ import annotations

import time

import torch


class StepTimer:
    """Sums seconds by part. `mark(part)` ends the part that ran since the last mark.

    On a GPU the marks are events on its stream: read `seconds` after the step has been waited
    for anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin a step."""
        self._marks = [("", self._now())]

    def mark(self, phase: str) -> None:
        """What ran since the last mark was `phase`."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part of the step, and `step`, their sum."""
        total: dict[str, float] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            if isinstance(before, float) and isinstance(after, float):
                spent = after - before
            else:
                spent = before.elapsed_time(after) / 1000  # type: ignore[union-attr, arg-type]
            total[part] = total.get(part, 0.0) + spent
        total["step"] = sum(total.values())
        return total

    def _now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
