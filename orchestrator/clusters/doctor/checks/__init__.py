"""The doctor's checks. A new check is a class in a module of this package and a row below."""

from __future__ import annotations

from typing import Protocol

from orchestrator.clusters.doctor.checks.capacity import DecodeCores, WorkerCapacity
from orchestrator.clusters.doctor.checks.nodes import (
    ClockSkew,
    NodesRespond,
    OpenFileLimit,
    SameVersions,
    SharedMemory,
)
from orchestrator.clusters.doctor.checks.services import (
    DatasetAccess,
    MlflowAccess,
    RayTokenRequired,
)
from orchestrator.clusters.doctor.checks.speed import AllReduceSpeed, GpuHealth, MatmulSpeed
from orchestrator.clusters.doctor.checks.storage import FreeSpace, SharedStorage
from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts


class Check(Protocol):
    """One check of a cluster."""

    name: str

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Check the facts: one result per problem, or one result `ok`."""


CHECKS: tuple[Check, ...] = (
    NodesRespond(), SameVersions(), GpuHealth(), MatmulSpeed(), AllReduceSpeed(),
    SharedStorage(), FreeSpace(), MlflowAccess(), DatasetAccess(), WorkerCapacity(),
    DecodeCores(), SharedMemory(), OpenFileLimit(), ClockSkew(), RayTokenRequired(),
)  # fmt: skip
"""All checks, in the order of the output."""

__all__ = ["CHECKS", "Check"]
