"""A training that diverges goes back once; if that does not help it ends and says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from orchestrator.errors import JobFailed
from orchestrator.jepa.objectives import ObjectiveOutput
from orchestrator.jepa.objectives.vjepa2.objective import VJEPA2Objective
from orchestrator.job import VJEPA2, TrainJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.runner import run
from orchestrator.training.engine.spike_guard import MAX_SKIPPED

pytestmark = pytest.mark.integration


class Diverging(VJEPA2Objective):
    """Gives NaN at some of its forwards, counted over all starts in a file."""

    class Config(VJEPA2):
        kind: str = "diverging"
        file: str
        first: int
        last: int

    def __init__(self, config: Config, job: TrainJob) -> None:
        super().__init__(config, job)
        self.config = config

    def forward(
        self, video: Tensor, masks: list[tuple[Tensor, Tensor]], targets: Tensor | None
    ) -> ObjectiveOutput:
        output = super().forward(video, masks, targets)
        file = Path(self.config.file)
        count = len(file.read_text()) if file.exists() else 0
        file.write_text("." * (count + 1))
        if self.config.first <= count < self.config.last:
            return ObjectiveOutput(output.loss * float("nan"), output.features)
        return output


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def diverging_job(folder: Path, last: int) -> Any:
    """30 steps, a checkpoint every 6; NaN from the 16th forward on."""
    return build_job(
        {
            "kind": "train",
            "name": "diverging",
            "storage": str(folder / "storage"),
            "data": {
                "source": "physics://drop?clips=4&size=32&fps=8&seconds=2",
                "frames": 4,
                "fps": 4.0,
                "size": 32,
            },
            "model": {
                "encoder": {"dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "predictor": {"depth": 1, "dim": 24, "heads": 2},
            },
            "objective": {
                "kind": "test_rollback:Diverging",
                "file": str(folder / "forwards"),
                "first": 15,
                "last": last,
                "masks": [{"targets": 0.5, "context": 0.25}],
            },
            "optim": {"steps": 30},
            "scale": {"global_batch": 2, "micro_batch": 2, "precision": "fp32"},
            "checkpoint": {"every": 6},
            "track": {"every": 1, "pictures": 0},
        }
    )


def test_it_goes_back_once_and_then_goes_on(tmp_path: Path) -> None:
    heard = Heard()
    summary = run(diverging_job(tmp_path, last=15 + MAX_SKIPPED), local=True, progress=heard)
    told = "\n".join(heard.lines)
    assert summary.checkpoint == "step-00000030"
    assert "step 15 is not applied" in told
    assert "going back to the last checkpoint, once" in told
    # While steps are skipped nothing is saved: step 12 is the last that was sound.
    assert "resumed at step 12" in told


def test_it_ends_with_an_explanation_where_that_does_not_help(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="did not help") as caught:
        run(diverging_job(tmp_path, last=10_000), local=True, progress=Heard())
    assert "10 steps in a row could not be applied" in str(caught.value)
    assert "optim.lr" in str(caught.value)
