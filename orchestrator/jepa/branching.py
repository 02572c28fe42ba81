"""Many plans from one past: what follows each, moment by moment, from predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from orchestrator.jepa.blocks import Past


class Told(Protocol):
    """A predictor that is told what is done, as it is asked to go on from what it has read."""

    @property
    def area(self) -> int:
        """Tokens of a moment's features."""

    @property
    def depth(self) -> int:
        """Attentions, each with a past of its own."""

    def prepare(self, actions: Tensor, states: Tensor | None) -> list[Tensor]:
        """All that can be made of what is done before anything is predicted: [B, n, ...] each, of
        actions [B, n, D] and states [B, n, S]."""

    def advance(self, z: Tensor, told: Sequence[Tensor], pasts: Sequence[Past]) -> Tensor:
        """Read n more moments, [B, n * area, dim] with what was prepared of them, behind those of
        `pasts`, which they join; gives the features after the last, [B, area, dim]."""


def follow(
    predictor: Told,
    z: Tensor,
    past: Tensor,
    plans: Tensor,
    history: int,
    states: Tensor | None = None,
) -> Tensor:
    """What follows each plan, every moment from the last `history` moments and predictions.

    What the plans share is read once for all of them.

    Args:
        z: features of the h moments so far, [B, h * area, dim].
        past: what was done between them, [B, h - 1, D].
        plans: what is done next, [B, N, H, D].
        history: most moments that are read at once: as many as in training.
        states: of the h moments, [B, h, S], where D is a state's change; those that follow are the
            sums.

    Returns:
        [B, N, H * area, dim].
    """
    problems, count, steps = plans.shape[:3]
    area, shared, own = predictor.area, past.shape[1], plans.flatten(0, 1)
    told = predictor.prepare(past, None if states is None else states[:, :-1])
    said = predictor.prepare(own, None if states is None else _summed(states, own, count))
    known = z[:, shared * area :].repeat_interleave(count, 0)
    pasts: list[Past] = []
    for now in range(shared + 1, shared + steps + 1):
        first = max(0, now - history)
        begin = now - 1
        if first or not pasts:  # a window that moves is read anew
            begin, pasts = max(first, shared), [Past() for _ in range(predictor.depth)]
            if first < shared:
                before = [one[:, first:shared] for one in told]
                predictor.advance(z[:, first * area : shared * area], before, pasts)
                for one in pasts:
                    one.spread(count)
        new = slice(begin - shared, now - shared)
        moments = known[:, new.start * area : new.stop * area]
        after = predictor.advance(moments, [one[:, new] for one in said], pasts)
        known = torch.cat([known, after.to(z.dtype)], 1)
    return known[:, area:].view(problems, count, steps * area, -1)


def _summed(states: Tensor, plans: Tensor, count: int) -> Tensor:
    """The states that plans [B * N, H, S] begin their steps in."""
    begun = states[:, -1:].repeat_interleave(count, 0)
    return torch.cat([begun, begun + plans[:, :-1].cumsum(1)], 1)
