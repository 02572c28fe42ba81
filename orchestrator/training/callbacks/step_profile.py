"""`--profile`: where a step's time goes, and a trace of a few steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from orchestrator.data.loader.batch import StepBatch
from orchestrator.storage import Storage
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.engine.step import StepResult

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer

# The first steps pay for allocation and compilation; then a few are recorded.
WARMUP_STEPS, TRACED_STEPS = 3, 5


class StepProfiler(Callback):
    """Sums each phase's seconds over all steps; traces steps 4 to 8 with torch.profiler.

    Leaves `profile/trace.json` (open it in a Chrome trace viewer or Perfetto) and
    `profile/phases.json` in the run's folder.
    """

    def __init__(self, folder: Storage, enabled: bool) -> None:
        super().__init__()
        self.folder, self.enabled = folder, enabled
        self.phases: dict[str, float] = {}
        self.steps = 0
        self._profiler: Any = None

    def on_start(self, trainer: Trainer) -> None:
        """Start the trace."""
        if self.enabled:
            self._profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(
                    wait=WARMUP_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1
                ),
                on_trace_ready=self._save_trace,
            )
            self._profiler.start()

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Add the step's phases."""
        if not self.enabled:
            return
        self.steps += 1
        if self.steps > WARMUP_STEPS:
            for phase, seconds in {"data wait": batch.wait_s, **result.phase_seconds}.items():
                self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self._profiler.step()

    def on_end(self, trainer: Trainer) -> None:
        """Write what was measured."""
        self._stop()

    def on_error(self, trainer: Trainer, error: BaseException) -> None:
        """Write what was measured until then."""
        self._stop()

    def _stop(self) -> None:
        if self._profiler is None:
            return
        self._profiler.stop()
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
