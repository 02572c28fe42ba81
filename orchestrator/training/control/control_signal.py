"""What rank 0 tells every rank with a training step, and what the loop does after it."""

from __future__ import annotations

from enum import Enum, IntEnum


class ControlSignal(IntEnum):
    """Rank 0's message to all ranks. It travels inside the step's all-reduce, as a number."""

    NONE = 0
    """Nothing to say."""

    CHECK_PREEMPTION = 1
    """All ranks ask Ray, together, whether a node is being taken away."""

    STOP = 2
    """Save and end the training after this step."""

    def encode(self) -> float:
        """The number that stands for it in a sum over ranks in which all others add 0."""
        return float(self.value)

    @classmethod
    def decode(cls, number: float) -> ControlSignal:
        """The signal behind the number that `encode` gave."""
        return cls(round(number))


class LoopDecision(Enum):
    """What the training loop does after a step."""

    CONTINUE = "continue"
    SAVE = "save"
    """Save a checkpoint, wait until it is complete, and go on."""

    STOP = "stop"
    """Save a checkpoint, wait until it is complete, and end."""
