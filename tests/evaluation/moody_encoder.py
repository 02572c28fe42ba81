"""An encoder that trains well, and is slow or fails where it is judged, as a folder says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import BaseModel
from torch import Tensor

from orchestrator.jepa.encoder import VisionTransformer


class MoodyEncoder(VisionTransformer):
    """While `wait` is there it waits; while `fail` is there it fails."""

    class Config(BaseModel):
        folder: str

    def __init__(self, config: Config, **shape: Any) -> None:
        super().__init__(**shape, dim=24, depth=1, heads=2)
        self.folder = Path(config.folder)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        if not dist.is_initialized():  # nobody trains here
            while (self.folder / "wait").exists():
                time.sleep(0.1)
            if (self.folder / "fail").exists():
                raise ValueError("it is in a mood")
        return super().forward(x, keep)
