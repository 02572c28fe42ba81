"""The doctor's checks: each looks at the facts, and says a line for what it finds."""

from orchestrator.clusters.doctor.checks.base import Check
from orchestrator.clusters.doctor.checks.capacity import DecodeCores, WorkerCapacity
from orchestrator.clusters.doctor.checks.nodes import (
    ClockSkew,
    NodesRespond,
    OpenFileLimit,
    SharedMemory,
)
from orchestrator.clusters.doctor.checks.services import (
    DatasetAccess,
    MlflowAccess,
    RayTokenRequired,
)
from orchestrator.clusters.doctor.checks.software import SameVersions
from orchestrator.clusters.doctor.checks.speed import AllReduceSpeed, GpuHealth, MatmulSpeed
from orchestrator.clusters.doctor.checks.storage import FreeSpace, SharedStorage

CHECKS: tuple[Check, ...] = (
    NodesRespond(), SameVersions(), GpuHealth(), MatmulSpeed(), AllReduceSpeed(),
    SharedStorage(), FreeSpace(), MlflowAccess(), DatasetAccess(), WorkerCapacity(),
    DecodeCores(), SharedMemory(), OpenFileLimit(), ClockSkew(), RayTokenRequired(),
)  # fmt: skip
"""In the order in which they are shown."""

__all__ = ["CHECKS", "Check"]
