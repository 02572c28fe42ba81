"""The cross-entropy method, for many problems at once."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.job.config.planning import CEM
from orchestrator.planning.base import ActionBounds, ActionPlan, Cost
from orchestrator.planning.noise import candidate_noise
from orchestrator.planning.search import BestPlans, clip_to_bounds, evaluate_costs, initial_std


class CEMSolver:
    """Cross-entropy method: sample around a mean, refit mean and std to the elites, repeat.

    As iCEM (Pinneri et al., arXiv 2008.06389, algorithm 2) it correlates noise in time, keeps some
    elites as candidates, tries the mean itself, and gives back the best plan that it has seen.
    """

    Config = CEM

    def __init__(self, config: CEM) -> None:
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
        spread = initial_std(bounds, config.init_std).expand_as(mean)
        elites = mean[:, None]
        for _ in range(config.iterations):
            fresh = config.candidates - elites.shape[1]
            shape = (rows, fresh, steps, width)
            noise = candidate_noise(shape, bounds.block, config.noise_correlation, generator).to(
                mean
            )
            drawn = clip_to_bounds(mean[:, None] + spread[:, None] * noise, bounds)
            candidates = torch.cat([elites, drawn], 1)
            costs = evaluate_costs(cost, candidates)
            low, at = costs.topk(config.elites, dim=1, largest=False)
            chosen = candidates.gather(1, at[..., None, None].expand(-1, -1, steps, width))
            best.update(chosen[:, 0], low[:, 0])
            mean = chosen.mean(1)
            spread = chosen.std(1, correction=0)
            # The mean was not tried yet; carried elites were, but the next spread needs them.
            elites = torch.cat([mean[:, None], chosen[:, : config.reused_elites]], 1)
        return best.plan
