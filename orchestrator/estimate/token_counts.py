"""Tokens of a clip, counted from a job's grid and masks."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.job import Future, MultiBlock, TrainJob, mask_counts


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one clip: the grid over time, height, width; (context, targets) of each mask."""

    grid: tuple[int, int, int]
    masks: tuple[tuple[int, int], ...]

    @property
    def clip(self) -> int:
        """Tokens of a whole clip."""
        return self.grid[0] * self.grid[1] * self.grid[2]


def token_masks(job: TrainJob) -> tuple[object, ...]:
    """Masks that split a clip's tokens into context and targets."""
    config = job.objective_config
    return config.mask_configs if config.predicts_masked_tokens else ()


def count_tokens(job: TrainJob) -> TokenCounts:
    """The tokens of one clip; masks that are a user's own are not listed."""
    tokens = job.grid[0] * job.grid[1] * job.grid[2]
    built_in = [mask for mask in token_masks(job) if isinstance(mask, (MultiBlock, Future))]
    return TokenCounts(job.grid, tuple(mask_counts(mask, tokens) for mask in built_in))
