"""What a step of VICReg for video costs."""

from __future__ import annotations

from orchestrator.estimate.objective_cost import LinearMap
from orchestrator.jepa.objectives.lewm.cost import LeWMCost


class VICRegCost(LeWMCost):
    """As LeWorldModel, with second moments of the embeddings in the place of SIGReg."""

    @property
    def state_head(self) -> list[LinearMap]:
        return []

    @property
    def sigreg_projections(self) -> int:
        return 0

    def extra_statistic_flops(self) -> float:
        """Moments of D by D + 1 numbers, and a product with a D by D slope, there and back."""
        dim = self.embedding_dim
        of_timestep = 2.0 * dim * (dim + 1) + 4.0 * dim * dim
        return self.sigreg_sets * self.grid[0] * of_timestep
