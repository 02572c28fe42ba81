"""What goes into one training step and what comes out of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives import BatchStatisticObjective, ClipSets, Objective
from orchestrator.training.control.control_signal import ControlSignal


@dataclass
class StepResult:
    """What one optimizer step was."""

    loss: float
    """sum(w l) / sum(w) over all micro-batches and ranks."""

    grad_norm: float
    """Norm of the whole gradient before clipping; infinite or NaN when not applied."""

    lr: float
    weight_decay: float
    num_clips: float
    """Sum of the weights: clips that counted."""

    applied: bool
    """False when the gradient was not finite or the loss a spike: weights, moments and teacher
    stay as they were."""

    control: ControlSignal
    """Rank 0's signal with this step (`training/callbacks/interruptions.py`), on every rank."""

    features: Tensor
    """[B, n, dim], detached: this rank's student features of its first micro-batch."""

    phase_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of this rank: teacher, student (forward and backward), update, step."""


class StepModule(nn.Module):
    """What DeepSpeed wraps: tensors in, tensors out, and autocast where parameters are fp32."""

    def __init__(self, objective: Objective, autocast: bool) -> None:
        super().__init__()
        self.objective = objective
        self.autocast = autocast
        self._takes_actions = "motion" in inspect.signature(objective.forward).parameters

    def forward(
        self,
        video: Tensor,
        masks: list[tuple[Tensor, Tensor]],
        targets: Tensor | ClipSets | None,
        weight: Tensor | None,
        actions: ActionBatch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of the clips' losses (scalar), and the features [B, n, dim].

        Without a weight it is the first of two passes: what the clips add to a statistic, twice.
        An objective whose forward takes no `motion` is not told of it.
        """
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.autocast):
            if weight is None:
                assert isinstance(self.objective, BatchStatisticObjective)
                assert isinstance(targets, ClipSets)
                sums = self.objective.partial_sums(video, targets)
                return sums, sums
            told = {"motion": actions} if self._takes_actions and actions is not None else {}
            output = self.objective(video, masks, targets, **told)
        return (output.loss.float() * weight).sum(), output.features
