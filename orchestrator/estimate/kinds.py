"""What a job of any kind needs: the shape of an estimate, and the options that one takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.cluster_profile import Profile
from orchestrator.estimate.cluster_estimate import Problem, estimate_on_cluster
from orchestrator.estimate.job_estimate import estimate_job
from orchestrator.job import TrainJob
from orchestrator.outcome import Row


@dataclass(frozen=True)
class EstimateOptions:
    """What a person knows better than the arithmetic; see `estimate_job`."""

    clips: int | None = None
    """Clips of the dataset."""

    gpu: str | None = None
    """A GPU's name, or its memory in GiB."""

    mfu: float | None = None
    """Share of the GPU's peak that a step reaches."""

    step_s: float | None = None
    """Seconds of a step, measured."""


class Estimate(Protocol):
    """What `Kind.estimate` gives: `JobEstimate`, `ClusterEstimate` or `KindEstimate`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        ...


@dataclass(frozen=True)
class KindEstimate:
    """What a job that is no single training needs, how long it takes and what it costs."""

    kind: str
    name: str
    rows: tuple[Row, ...]
    """Lines for the terminal."""

    figures: dict[str, Any]
    """The same in numbers; None: not known."""

    unknown: tuple[str, ...] = ()
    """What cannot be said before the job runs, each with the reason."""

    problem: Problem | None = field(default=None)
    """Why the job cannot run on the cluster as it is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kind": self.kind,
            "name": self.name,
            **self.figures,
            "unknown": list(self.unknown),
        }


def estimate_training(job: TrainJob, profile: Profile | None, options: EstimateOptions) -> Estimate:
    """The estimate of one training, on a cluster where a profile is given.

    Raises:
        RequestError: the GPU is not known.
    """
    given = vars(options)
    if profile is None:
        return estimate_job(job, **given)
    return estimate_on_cluster(job, profile, **given)


def cluster_cores(profile: Profile) -> int:
    """Cores of the nodes that jobs run on, with every group at its most nodes."""
    return sum(group.max_nodes * group.cpus for group in profile.worker_groups.values())


def cluster_hourly_price(profile: Profile) -> float | None:
    """Price of an hour of all nodes; None where a group has none."""
    prices = [(group.max_nodes, group.price) for group in profile.nodes.values()]
    if any(price is None for _, price in prices):
        return None
    return sum(count * (price or 0.0) for count, price in prices)
