"""What a step of V-JEPA 2-AC costs."""

from __future__ import annotations

from orchestrator.estimate.layer_cost import BuiltInEncoder
from orchestrator.estimate.objective_cost import LinearMap, ObjectiveCost, flops_of


class VJEPA2ACCost(ObjectiveCost):
    """A predictor on a frozen teacher's features: all frames at once, then a rollout."""

    @property
    def encoder_config(self) -> BuiltInEncoder:
        config = self.frozen_encoder_config
        assert config is not None
        return config

    @property
    def action_input_maps(self) -> list[LinearMap]:
        act = self.job.data.actions
        assert act is not None
        reads = 2 if act.representation == "change" else 1
        return [(act.action_dim or 0, self.predictor.dim)] * reads

    @property
    def frames_per_sequence(self) -> list[int]:
        """Frames of each sequence that the predictor reads: all, then the rollout's."""
        return [self.grid[0] - 1, *range(2, self.keys.rollout + 1)]

    @property
    def patches_per_frame(self) -> int:
        """Tokens of a frame's features."""
        return self.grid[1] * self.grid[2]

    @property
    def predictor_lengths(self) -> list[int]:
        tokens = len(self.action_input_maps) + self.patches_per_frame
        return [frames * tokens for frames in self.frames_per_sequence]

    def predictor_flops(self) -> float:
        out = 2.0 * self.predictor.dim * self.prediction_dim
        blocks = sum(self.predictor.flops(n) for n in self.predictor_lengths)
        patches = (flops_of(self.input_maps) + out) * self.patches_per_frame
        return blocks + sum(self.frames_per_sequence) * (patches + flops_of(self.action_input_maps))

    def flops_without_input_gradient(self) -> float:
        forced = (self.grid[0] - 1) * self.patches_per_frame
        actions = flops_of(self.action_input_maps) * sum(self.frames_per_sequence)
        return actions + flops_of(self.input_maps) * forced

    def extra_video_values(self) -> float:
        # Every frame as long as a tubelet.
        return 3.0 * self.job.data.frames * self.model.tubelet * self.job.data.size**2
