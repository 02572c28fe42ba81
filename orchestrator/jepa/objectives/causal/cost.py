"""What a step of causal prediction costs."""

from __future__ import annotations

from functools import cached_property

from orchestrator.estimate.layer_cost import TransformerCost
from orchestrator.estimate.objective_cost import ObjectiveCost, flops_of


class CausalCost(ObjectiveCost):
    """Encoder and predictor on a whole clip; a block attends within a timestep, then over time."""

    @cached_property
    def predictor(self) -> TransformerCost:
        spans = (self.grid[1] * self.grid[2], self.grid[0])
        return TransformerCost.from_config(self.model.predictor, spans)

    @property
    def num_horizons(self) -> int:
        return int(self.keys.horizons)

    @property
    def encoder_lengths(self) -> list[int]:
        return [self.tokens.clip]

    @property
    def predictor_lengths(self) -> list[int]:
        return [self.tokens.clip]

    def predictor_flops(self) -> float:
        out = 2.0 * self.predictor.dim * self.prediction_dim * self.num_horizons
        clip = self.tokens.clip
        return self.predictor.flops(clip) + (flops_of(self.input_maps) + out) * clip
