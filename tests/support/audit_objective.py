"""An objective that notes what it is shown: a witness that knows nothing of ledgers and orders.

The videos of these tests are of one shade each, so the mean of a clip says which it is. Each
process writes a line of means for every forward, in a file named by the run and the process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from orchestrator.jepa.objectives import ObjectiveOutput
from orchestrator.jepa.objectives.vjepa2.objective import VJEPA2Objective
from orchestrator.job import VJEPA2, TrainJob

NUM_SHADES = 24

FORWARD_DELAY_VARIABLE = "WITNESS_PACE_S"
"""Names the variable with the seconds that every forward waits: a signal then falls near the step
that it was meant for, on any machine."""


class AuditObjective(VJEPA2Objective):
    """V-JEPA 2 that writes down the mean of every clip that reaches its patch embedding."""

    class Config(VJEPA2):
        kind: str = "witness"
        folder: str

    def __init__(self, config: Config, job: TrainJob) -> None:
        super().__init__(config, job)
        self.file = Path(config.folder) / f"{job.name}.{time.time_ns()}.{os.getpid()}"

    def forward(
        self, video: Tensor, masks: list[tuple[Tensor, Tensor]], targets: Tensor | None
    ) -> ObjectiveOutput:
        time.sleep(float(os.environ.get(FORWARD_DELAY_VARIABLE, "0")))
        with open(self.file, "a") as out:
            print(*video.mean(dim=tuple(range(1, video.ndim))).tolist(), file=out)
        return super().forward(video, masks, targets)


class PerturbedAuditObjective(AuditObjective):
    """The same weights, but for the last bit of every second one: the least that can differ."""

    def __init__(self, config: AuditObjective.Config, job: TrainJob) -> None:
        super().__init__(config, job)
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weights in self.parameters():
                nudged = torch.nextafter(weights, torch.tensor(torch.inf))
                some = torch.rand(weights.shape, generator=drawn) < 0.5
                weights.copy_(torch.where(some, nudged, weights))


def write_shade_videos(folder: Path) -> None:
    """One video of two seconds for each shade, and no two alike."""
    folder.mkdir(parents=True)
    for shade in range(NUM_SHADES):
        with av.open(str(folder / f"{shade:02d}.mp4"), "w") as out:
            stream: Any = out.add_stream("libx264", rate=8, options={"crf": "4"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            level = 16 + shade * 9
            picture = np.full((64, 64, 3), level, np.uint8)
            for _ in range(17):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(stream.encode())


def audited_clips(
    folder: Path, run: str, first_steps: list[int], world_size: int
) -> list[list[float]]:
    """By step, the sorted means of all ranks, as the last start that trained the step saw them.

    `first_steps`: the step at which each start of the workers began, in their order.
    """
    # A start's ranks make their files together, long after the start before it was gone.
    files = sorted(f for f in folder.iterdir() if f.name.startswith(f"{run}."))
    files = [file for file in files if file.stat().st_size]
    steps: dict[int, list[float]] = {}
    groups = [files[i : i + world_size] for i in range(0, len(files), world_size)]
    for start, group in zip(first_steps, groups, strict=True):
        lines = [file.read_text().splitlines() for file in group]
        for offset, parts in enumerate(zip(*lines, strict=False)):
            steps[start + offset] = sorted(float(m) for part in parts for m in part.split())
    return [steps[step] for step in sorted(steps)]
