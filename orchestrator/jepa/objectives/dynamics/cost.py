"""What a step of latent dynamics costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from orchestrator.estimate.layer_cost import RecurrentPredictorCost
from orchestrator.estimate.objective_cost import ObjectiveCost


class DynamicsCost(ObjectiveCost):
    """A recurrent predictor on the codes of a whole clip; the encoder is fitted, not trained."""

    @cached_property
    def predictor(self) -> RecurrentPredictorCost:
        shape = self.model.predictor
        return RecurrentPredictorCost(shape.dim, shape.depth, self.encoder.dim)

    @property
    def predictor_lengths(self) -> list[int]:
        return [self.tokens.clip]

    def predictor_tensors(self) -> Iterator[int]:
        yield from self.predictor.tensors()

    def predictor_flops(self) -> float:
        return self.predictor.flops(self.tokens.clip)

    def flops_without_input_gradient(self) -> float:
        return 2.0 * self.predictor.in_proj_weights * self.tokens.clip
