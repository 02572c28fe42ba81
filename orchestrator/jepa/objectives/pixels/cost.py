"""What a step of pixel prediction costs."""

from __future__ import annotations

from orchestrator.estimate.objective_cost import ObjectiveCost


class PixelsCost(ObjectiveCost):
    """As V-JEPA 2 without a teacher; a prediction is a patch of pixels."""

    @property
    def prediction_dim(self) -> int:
        return self.pixels_per_token
