"""What a step of LeWorldModel costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from orchestrator.estimate.layer_cost import TransformerCost
from orchestrator.estimate.objective_cost import LinearMap, ObjectiveCost, flops_of

ACTION_MLP_RATIO = 4
"""Inner width of an action embedder over its output (`jepa/predictors/action_conditioning.py`)."""


class LeWMCost(ObjectiveCost):
    """One embedding a timestep, two projections, SIGReg, and a rollout on embeddings."""

    @cached_property
    def predictor(self) -> TransformerCost:
        adaptive = self.job.data.actions is not None
        return TransformerCost.from_config(self.model.predictor, adaptive=adaptive)

    @property
    def embedding_dim(self) -> int:
        return int(self.keys.embed or self.encoder.dim)

    @property
    def prediction_dim(self) -> int:
        return self.embedding_dim

    @property
    def projectors(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Elements of the tensors of the projections behind the encoder and the predictor."""
        hidden, width = self.keys.hidden, self.embedding_dim
        patches = self.grid[1] * self.grid[2] if self.keys.pool == "places" else 1
        first, second = (
            (dim * hidden, hidden, hidden, hidden, hidden * width, width)
            for dim in (patches * self.encoder.dim, self.predictor.dim)
        )
        return first, second

    def encoder_tensors(self) -> Iterator[int]:
        yield from super().encoder_tensors()
        yield from self.projectors[0]

    def output_tensors(self) -> Iterator[int]:
        yield from self.projectors[1]

    @property
    def action_input_maps(self) -> list[LinearMap]:
        act = self.job.data.actions
        if act is None:
            return []
        return [(act.action_dim or 0, ACTION_MLP_RATIO * self.model.predictor.dim)]

    @property
    def action_maps(self) -> list[LinearMap]:
        behind = [(wide, wide // ACTION_MLP_RATIO) for _, wide in self.action_input_maps]
        return behind + self.inverse_dynamics_head + self.state_head

    @property
    def inverse_dynamics_head(self) -> list[LinearMap]:
        """From two embeddings to the action between them."""
        act = self.job.data.actions
        if act is None or not self.keys.inverse:
            return []
        return [(2 * self.embedding_dim, act.action_dim or 0)]

    @property
    def state_head(self) -> list[LinearMap]:
        """From an embedding to its timestep's state."""
        act, states = self.job.data.actions, self.keys.states
        if act is None or states is None:
            return []
        width = len(act.statistics.state_mean) if act.statistics else 0
        return [(self.embedding_dim, len(states.non_angle_dims(width)) + 2 * len(states.angles))]

    @property
    def encoder_lengths(self) -> list[int]:
        return [self.tokens.clip]

    @property
    def predictor_lengths(self) -> list[int]:
        return [self.grid[0] - ahead for ahead in range(1, self.keys.rollout + 1)]

    def predictor_flops(self) -> float:
        heads = flops_of(self.inverse_dynamics_head) * (self.grid[0] - 1)
        heads += flops_of(self.state_head) * self.grid[0]
        embedder = [(wide, wide // ACTION_MLP_RATIO) for _, wide in self.action_input_maps]
        maps = flops_of(self.input_maps + self.action_input_maps + embedder)
        read = self.predictor_lengths
        blocks = sum(self.predictor.flops(n) for n in read)
        return blocks + (maps + self._projector_flops(1)) * sum(read) + heads

    def flops_without_input_gradient(self) -> float:
        return flops_of(self.action_input_maps) * sum(self.predictor_lengths)

    def encoder_projection_flops(self) -> float:
        return self._projector_flops(0) * self.grid[0]

    @property
    def sigreg_projections(self) -> int:
        return self.grid[0] * int(self.keys.slices)

    def extra_activations(self, b: int) -> float:
        # Of a timestep: what goes into a projection, the norm's input and output, the GELU's.
        inputs = sum(sizes[0] / sizes[1] + 3 * sizes[1] for sizes in self.projectors)
        return super().extra_activations(b) + b * self.grid[0] * inputs

    def _projector_flops(self, index: int) -> float:
        """Forward FLOPs on a timestep of the projection behind the encoder (0) or predictor (1)."""
        sizes = self.projectors[index]
        return 2.0 * (sizes[0] + sizes[4])
