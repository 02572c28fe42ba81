"""Signs of collapse, cheap enough for every row of metrics.

`feature_std`, `rankme` and `token_cosine` look at the features that they are given: those of
one rank's micro-batch, a sample of the global batch. `squared_distance` is a sum over this
rank's shards; the engine adds it up over the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Bounds the cost: a 4096 x 1664 matrix is the largest that is ever decomposed.
MAX_TOKENS = 4096
# Elements subtracted at a time: no temporary as large as the model.
CHUNK = 2**24


def sample_tokens(features: Tensor, most: int = MAX_TOKENS) -> Tensor:
    """Features [B, n, dim] as float32 rows [N, dim], N <= `most`, evenly spaced."""
    rows = features.detach().reshape(-1, features.shape[-1])
    stride = -(-rows.shape[0] // most)
    return rows[::stride].float()


def feature_std(features: Tensor) -> float:
    """Standard deviation over tokens, averaged over dimensions; 0 when collapsed to a point.

    VICReg (arXiv 2105.04906), equation 1, without its epsilon. `features` is [B, n, dim].
    """
    return float(sample_tokens(features).std(dim=0, unbiased=False).mean())


def rankme(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the normalised singular values of [N, dim].

    RankMe (arXiv 2210.02885), equation 2. Between 1 (one direction) and min(N, dim).
    """
    rows = sample_tokens(features).double()
    # The smaller Gram matrix has the same non-zero spectrum and is far cheaper than an SVD.
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-30) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def token_cosine(features: Tensor) -> float:
    """Mean cosine over all pairs of different tokens; 1 when all point the same way.

    (|sum u|^2 - N) / (N (N - 1)) for the N unit vectors u: no N x N matrix is made.
    """
    units = torch.nn.functional.normalize(sample_tokens(features).double(), dim=-1)
    count = units.shape[0]
    if count < 2:
        return 1.0
    return float((units.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def squared_distance(teacher: Iterable[Tensor], student: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of (teacher - student)^2 and of student^2 over this rank's shards (float64).

    The teacher's distance is the root of their ratio, once both are summed over the ranks.
    """
    apart, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for mine, theirs in zip(teacher, student, strict=True):
        for a, b in zip(torch.split(mine, CHUNK), torch.split(theirs, CHUNK), strict=True):
            apart = apart.to(a.device) + (a - b).square().sum(dtype=torch.float64)
            size = size.to(a.device) + b.square().sum(dtype=torch.float64)
    return apart, size


COLLAPSED = "the features have collapsed"
"""How the message of a collapse begins."""

LEAST_RANKME, LEAST_STD = 2.0, 0.01
"""Below them nothing is left to train on: one direction, or one point."""


def collapse(values: dict[str, float]) -> str | None:
    """What to say where `rankme` or `feature_std` is that of a collapsed encoder."""
    rank, std = values["rankme"], values["feature_std"]
    if rank >= LEAST_RANKME and std >= LEAST_STD:
        return None
    return (
        f"{COLLAPSED}: RankMe {rank:.3g}, feature std {std:.3g}; lower optim.lr or raise"
        " objective.ema, and begin anew (--fresh)"
    )
