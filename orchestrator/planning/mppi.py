"""Model predictive path integral control, for many problems at once."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.job.config.planning import MPPI
from orchestrator.planning.base import ActionBounds, ActionPlan, Cost
from orchestrator.planning.noise import candidate_noise
from orchestrator.planning.search import BestPlans, clip_to_bounds, evaluate_costs, initial_std


class MPPISolver:
    """MPPI: iterate the mean of candidates weighted by exp(-cost / temperature).

    Williams et al., arXiv 1707.02342, section III. Costs are measured in their own standard
    deviations, so that one temperature serves every scale; the noise narrows as iterations pass.
    """

    Config = MPPI

    def __init__(self, config: MPPI) -> None:
        self.config = config

    @torch.inference_mode()
    def solve(
        self, cost: Cost, start: Tensor, bounds: ActionBounds, generator: torch.Generator
    ) -> ActionPlan:
        """See `planning.base.Solver`.

        Raises:
            JobFailed: the cost is a number for none of a problem's candidates.
        """
        config = self.config
        rows, steps, width = start.shape
        mean, best = clip_to_bounds(start, bounds), BestPlans()
        spread = initial_std(bounds, config.init_std)
        shape = (rows, config.candidates - 1, steps, width)
        for turn in range(config.iterations):
            narrowed = spread * (1 - turn / config.iterations)
            noise = candidate_noise(shape, bounds.block, config.noise_correlation, generator).to(
                mean
            )
            drawn = clip_to_bounds(mean[:, None] + narrowed * noise, bounds)
            candidates = torch.cat([mean[:, None], drawn], 1)
            costs = evaluate_costs(cost, candidates)
            low, at = costs.min(1)
            best.update(candidates[torch.arange(rows), at], low)
            mean = (_softmax_weights(costs, config.temperature)[..., None, None] * candidates).sum(
                1
            )
        return best.plan


def _softmax_weights(costs: Tensor, temperature: float) -> Tensor:
    """Weights [B, N] that sum to 1 in each row; candidates without a finite cost have weight 0."""
    known = costs.isfinite()
    count = known.sum(1, keepdim=True)
    middle = costs.where(known, 0).sum(1, keepdim=True) / count
    apart = ((costs - middle).where(known, 0).square().sum(1, keepdim=True) / count).sqrt()
    return torch.softmax(-costs / (temperature * apart).clamp_min(1e-12), 1)
