"""What a step of V-JEPA 2.1 costs."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.estimate.objective_cost import ObjectiveCost


class VJEPA21Cost(ObjectiveCost):
    """As V-JEPA 2, with predictions at the context's tokens by a projection of their own."""

    @property
    def predicted_tokens(self) -> list[int]:
        return [context + targets for context, targets in self.tokens.masks]

    def output_tensors(self) -> Iterator[int]:
        yield from super().output_tensors()
        yield from super().output_tensors()
