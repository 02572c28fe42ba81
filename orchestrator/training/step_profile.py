"""`--profile`: where a step's time goes, and a trace of a few steps."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

from orchestrator.data.loader.batch import StepBatch
from orchestrator.storage import Storage
from orchestrator.training.engine.step import StepResult

# The first steps pay for allocation and compilation; then a few are recorded.
WARMUP_STEPS, TRACED_STEPS = 3, 5


class StepProfiler:
    """Sums each phase's seconds over all steps; traces steps 4 to 8 with torch.profiler.

    Leaves `profile/trace.json` (open it in a Chrome trace viewer or Perfetto) and
    `profile/phases.json` in the run's folder.
    """

    def __init__(self, folder: Storage, enabled: bool) -> None:
        self.folder, self.enabled = folder, enabled
        self.phases: dict[str, float] = {}
        self.steps = 0
        self._profiler: Any = None

    def __enter__(self) -> StepProfiler:
        if self.enabled:
            self._profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(
                    wait=WARMUP_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1
                ),
                on_trace_ready=self._save_trace,
            )
            self._profiler.__enter__()
        return self

    def step(self, data: StepBatch, result: StepResult) -> None:
        """One step is done."""
        if not self.enabled:
            return
        self.steps += 1
        if self.steps > WARMUP_STEPS:
            for phase, seconds in {"data wait": data.wait_s, **result.phase_seconds}.items():
                self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self._profiler.step()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._profiler is None:
            return
        self._profiler.__exit__(kind, error, trace)
        self.folder.write_json(
            "profile/phases.json", {"seconds_per_step": self.mean_phase_seconds()}
        )

    def mean_phase_seconds(self) -> dict[str, float]:
        """Mean seconds of each phase, the first steps left out; empty when profiling is off."""
        measured = max(self.steps - WARMUP_STEPS, 1)
        return {phase: seconds / measured for phase, seconds in self.phases.items()}

    def _save_trace(self, profiler: Any) -> None:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            self.folder.write_bytes("profile/trace.json", path.read_bytes())
