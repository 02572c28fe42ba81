"""Signs of collapse, cheap enough for every row of metrics.

`feature_std`, `rankme` and `token_cosine` look at the features that they are given: those of
one rank's micro-batch, a sample of the global batch. `teacher_squared_distance` is a sum over this
rank's shards; the engine adds it up over the ranks.

None of them raises whatever the features are: of features that are not finite each number is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from orchestrator.job import ObjectiveConfig

# Bounds the cost: a 4096 x 1664 matrix is the largest that is ever decomposed.
MAX_TOKENS = 4096
# Elements subtracted at a time: no temporary as large as the model.
CHUNK_ELEMENTS = 2**24


def sample_tokens(features: Tensor, max_tokens: int = MAX_TOKENS) -> Tensor:
    """Features [B, n, dim] as float32 rows [N, dim], N <= `max_tokens`, evenly spaced."""
    rows = features.detach().reshape(-1, features.shape[-1])
    stride = max(1, -(-rows.shape[0] // max_tokens))
    return rows[::stride].float()


def feature_std(features: Tensor) -> float:
    """Standard deviation over tokens, averaged over dimensions; 0 when collapsed to a point.

    VICReg (arXiv 2105.04906), equation 1, without its epsilon. `features` is [B, n, dim].
    """
    # In float64: the squares of large float32 numbers overflow.
    return float(sample_tokens(features).double().std(dim=0, unbiased=False).mean())


def rankme(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the normalised singular values of [N, dim].

    RankMe (arXiv 2210.02885), equation 2. Between 1 (one direction) and min(N, dim).
    """
    rows = sample_tokens(features).double()
    # The smaller Gram matrix has the same non-zero spectrum and is far cheaper than an SVD.
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    return effective_rank(eigenvalues(gram).clamp_min(0).sqrt())


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric matrix [n, n], ascending; NaN where there are none to be had:
    the matrix is not finite, or LAPACK does not converge."""
    if matrix.isfinite().all():
        try:
            found: Tensor = torch.linalg.eigvalsh(matrix)
            return found
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            pass
    return matrix.new_full(matrix.shape[:1], math.nan)


def effective_rank(spectrum: Tensor) -> float:
    """exp of the entropy of a normalised spectrum [n], which is not negative."""
    share = spectrum / spectrum.sum().clamp_min(1e-30) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def token_cosine(features: Tensor) -> float:
    """Mean cosine over all pairs of different tokens; 1 when all point the same way.

    (|sum u|^2 - N) / (N (N - 1)) for the N unit vectors u: no N x N matrix is made.
    """
    units = torch.nn.functional.normalize(sample_tokens(features).double(), dim=-1)
    count = units.shape[0]
    if count < 2:
        return 1.0 if units.isfinite().all() else math.nan
    return float((units.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def teacher_squared_distance(
    teacher: Iterable[Tensor], student: Iterable[Tensor]
) -> tuple[Tensor, Tensor]:
    """Sums of (teacher - student)^2 and of student^2 over this rank's shards (float64).

    The teacher's distance is the root of their ratio, once both are summed over the ranks.
    """
    apart, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for mine, theirs in zip(teacher, student, strict=True):
        for a, b in zip(
            torch.split(mine, CHUNK_ELEMENTS), torch.split(theirs, CHUNK_ELEMENTS), strict=True
        ):
            apart = apart.to(a.device) + (a - b).square().sum(dtype=torch.float64)
            size = size.to(a.device) + b.square().sum(dtype=torch.float64)
    return apart, size


COLLAPSE_MESSAGE = "the features have collapsed"
"""How the message of a collapse begins."""

NOT_FINITE_MESSAGE = "the features are not finite"
"""How the message of a training that blew up begins."""

MIN_RANKME, MIN_FEATURE_STD, MAX_TOKEN_COSINE = 2.0, 0.01, 0.9999
"""Beyond them nothing is left to train on: one direction, one point, one way for all tokens. Of
features whose squares average 1 a std of 0.01 and a cosine of 0.9999 are the same."""


def finite_values(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are numbers: NaN and infinity are left out."""
    return {key: value for key, value in values.items() if math.isfinite(value)}


def collapse_warning(
    values: dict[str, float],
    *,
    objective: ObjectiveConfig | type[ObjectiveConfig],
    lr: float,
    momentum: float | None,
) -> str | None:
    """What to say where a sign is that of a collapsed encoder, or of one whose features are not
    finite: all signs, what drove it there, and what a person can do."""
    rank, std, cosine = (values[key] for key in ("rankme", "feature_std", "token_cosine"))
    if rank >= MIN_RANKME and std >= MIN_FEATURE_STD and cosine <= MAX_TOKEN_COSINE:
        return None
    drive = f"learning rate {lr:.3g}"
    if momentum is not None:
        drive += f", teacher's momentum {momentum:g}"
    if not all(map(math.isfinite, (rank, std, cosine))):
        return f"{NOT_FINITE_MESSAGE}, at {drive}. Lower optim.lr, set optim.clip, or train in fp32"
    first, second = objective.collapse_hints
    signs = (
        f"{COLLAPSE_MESSAGE}: RankMe {rank:.3g}, feature std {std:.3g}, token cosine {cosine:.3g},"
        " at"
    )
    if objective.features_start_collapsed:
        return f"{signs} {drive}. Training may still pull them apart; else {first}, or {second}"
    again = "begin anew (--fresh): it does not come back"
    return f"{signs} {drive}. Stop it; {first}, or {second}; {again}"
