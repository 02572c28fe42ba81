"""Whose turn it is to be judged: pure bookkeeping."""

from __future__ import annotations

from typing import NamedTuple


class PendingEvaluation(NamedTuple):
    """One evaluation of one checkpoint."""

    evaluation: str
    step: int


class EvaluationQueue:
    """One turn at a time; of each evaluation at most one checkpoint waits, and that the newest.

    Nothing piles up however slow an evaluation is: it misses checkpoints, and says which.
    """

    def __init__(self) -> None:
        self.running: PendingEvaluation | None = None
        self._waiting: dict[str, int] = {}
        self._newest: dict[str, int] = {}

    @property
    def waiting(self) -> list[PendingEvaluation]:
        """What waits, the evaluation that has waited longest first."""
        return [PendingEvaluation(evaluation, step) for evaluation, step in self._waiting.items()]

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return self.running is None and not self._waiting

    def is_new(self, turn: PendingEvaluation) -> bool:
        """Whether it is later than all that was offered for its evaluation."""
        return turn.step > self._newest.get(turn.evaluation, -1)

    def superseded_by(self, turn: PendingEvaluation) -> PendingEvaluation | None:
        """What would wait no more if this one were offered."""
        older = self._waiting.get(turn.evaluation)
        return (
            PendingEvaluation(turn.evaluation, older)
            if older is not None and self.is_new(turn)
            else None
        )

    def enqueue(self, turn: PendingEvaluation) -> None:
        """A checkpoint to judge; one that is not new is ignored."""
        if self.is_new(turn):
            self._newest[turn.evaluation] = turn.step
            # In the place of the one before it, which keeps its place in the queue.
            self._waiting[turn.evaluation] = turn.step

    def remove(self, turn: PendingEvaluation) -> None:
        """It waits no more: it cannot be judged."""
        del self._waiting[turn.evaluation]

    def start_next(self) -> PendingEvaluation | None:
        """The next turn, which runs from now on; None while another runs or none waits."""
        if self.running is not None or not self._waiting:
            return None
        self.running = self.waiting[0]
        del self._waiting[self.running.evaluation]
        return self.running

    def mark_done(self) -> None:
        """What ran has ended."""
        self.running = None
