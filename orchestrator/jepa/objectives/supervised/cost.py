"""What a step of supervised classification costs."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.estimate.objective_cost import ObjectiveCost


class SupervisedCost(ObjectiveCost):
    """The encoder on a whole clip, and a linear head."""

    @property
    def encoder_lengths(self) -> list[int]:
        return [self.tokens.clip]

    def predictor_tensors(self) -> Iterator[int]:
        classes = len(self.keys.classes)
        yield from (self.encoder.dim * classes, classes)

    def predictor_flops(self) -> float:
        return 2.0 * self.encoder.dim * len(self.keys.classes)
