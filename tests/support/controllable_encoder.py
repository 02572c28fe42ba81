"""An encoder that trains well, and is slow or fails where it is judged, as a folder says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import BaseModel
from torch import Tensor

from orchestrator.jepa.encoders.vision_transformer import VisionTransformer

HOLD_AFTER_FORWARDS = 15


class ControllableEncoder(VisionTransformer):
    """Where it is judged it waits while `wait` is there, and fails while `fail` is there. Where it
    trains it goes no further than some `HOLD_AFTER_FORWARDS` steps while `hold` is there."""

    class Config(BaseModel):
        folder: str

    def __init__(self, config: Config, **shape: Any) -> None:
        super().__init__(**shape, dim=24, depth=1, heads=2)
        self.folder, self.forwards = Path(config.folder), 0

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        if not dist.is_initialized():  # nobody trains here
            while (self.folder / "wait").exists():
                time.sleep(0.1)
            if (self.folder / "fail").exists():
                raise ValueError("it is in a mood")
        else:
            self.forwards += 1
            while self.forwards > HOLD_AFTER_FORWARDS and (self.folder / "hold").exists():
                time.sleep(0.1)
        return super().forward(x, keep)
