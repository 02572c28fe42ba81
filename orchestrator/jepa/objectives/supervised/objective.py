"""Supervised classification: what labels alone teach the same encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import DataError
from orchestrator.jepa.encoders.vision_transformer import build_encoder, encoder_width
from orchestrator.jepa.objectives.base import Masks, Objective, ObjectiveOutput
from orchestrator.jepa.objectives.supervised.config import Supervised
from orchestrator.job import TrainJob


class SupervisedObjective(Objective):
    """Cross-entropy of the clip's class, from the mean of all its tokens by one linear map."""

    def __init__(self, config: Supervised, job: TrainJob) -> None:
        super().__init__()
        self.label_pattern = re.compile(config.label)
        self.classes = {name: number for number, name in enumerate(config.classes)}
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.head = nn.Linear(encoder_width(self.encoder), len(self.classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def labels(self, keys: Sequence[str]) -> Tensor:
        """The classes that stand in the clips' keys, int64 [B]; 0 for padding, which has no key.

        Raises:
            DataError: a key holds no class, or one that the job does not name.
        """
        return torch.tensor([self._class_index(key) if key else 0 for key in keys])

    def _class_index(self, key: str) -> int:
        found = self.label_pattern.search(key)
        if found is None or found[0] not in self.classes:
            what = f"the class '{found[0]}'" if found else "no class"
            raise DataError(
                f"the key of a clip holds {what}, the job names {', '.join(self.classes)}",
                where=key,
                hint="set objective.classes and objective.label to what the keys hold",
            )
        return self.classes[found[0]]

    def forward(self, video: Tensor, masks: Masks, targets: Any) -> ObjectiveOutput:
        """Cross-entropy of each clip of a normalised video [B, 3, T, H, W].

        Args:
            video: normalised [B, 3, T, H, W].
            masks: none.
            targets: what `labels` gave, int64 [B].
        """
        assert isinstance(targets, Tensor)
        z = self.encoder(video, None)
        scores = self.head(z.mean(1)).float()
        return ObjectiveOutput(F.cross_entropy(scores, targets, reduction="none"), z.detach())
