"""Which videos are learned from, chosen on and scored. A video is on one side only."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from orchestrator.errors import RequestError
from orchestrator.job.config.probe import ProbeSplit

SPLIT_NAMES = ("train", "validation", "test")


def split_videos(
    videos: Sequence[str], strata: Sequence[str], split: ProbeSplit, *, test: bool = True
) -> np.ndarray:
    """The side of each video, int64 [videos] into `SPLIT_NAMES`: a pure function of names and seed.

    Of each stratum (label) every side has its share as nearly as whole videos allow, and the
    first side at least one.

    Args:
        test: whether a share is held out to be scored.

    Raises:
        RequestError: too few videos.
    """
    by_stratum: dict[str, list[int]] = defaultdict(list)
    for number, stratum in enumerate(strata):
        by_stratum[stratum].append(number)
    sides = np.zeros(len(videos), np.int64)
    for numbers in by_stratum.values():
        numbers.sort(key=lambda number: (_hash_order(split.seed, videos[number]), videos[number]))
        scored = int(split.test * len(numbers) + 0.5) if test else 0
        chosen = int(split.validation * len(numbers) + 0.5)
        scored = min(scored, len(numbers) - 1)
        chosen = min(chosen, len(numbers) - 1 - scored)
        sides[numbers[:scored]] = SPLIT_NAMES.index("test")
        sides[numbers[scored : scored + chosen]] = SPLIT_NAMES.index("validation")
    for side in SPLIT_NAMES if test else SPLIT_NAMES[:2]:
        if not (sides == SPLIT_NAMES.index(side)).any():
            raise RequestError(
                f"{len(videos)} videos of {len(by_stratum)} labels are too few to split: none is"
                f" left for {side}",
                where="probe.split",
                hint="embed more videos, or raise that side's share",
            )
    return sides


def check_disjoint(fitted: Sequence[str], scored: Sequence[str]) -> None:
    """No video that is scored may be among those that are learned from.

    Raises:
        RequestError: one is.
    """
    both = sorted(set(fitted) & set(scored))
    if both:
        raise RequestError(
            f"{len(both)} videos are in probe.features and in probe.test_features: {both[0]}",
            where="probe.test_features",
            hint="score on videos of their own, or leave probe.test_features out",
        )


def _hash_order(seed: int, video: str) -> bytes:
    return hashlib.sha256(f"{seed}:{video.partition(' of ')[0]}".encode()).digest()
