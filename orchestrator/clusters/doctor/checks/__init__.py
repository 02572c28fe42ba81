"""The doctor's checks: each looks at the facts, and says a line for what it finds."""

from orchestrator.clusters.doctor.checks.base import Check
from orchestrator.clusters.doctor.checks.capacity import DataCores, Workers
from orchestrator.clusters.doctor.checks.nodes import Answers, Clocks, Files, SharedMemory
from orchestrator.clusters.doctor.checks.services import Dataset, Mlflow, Token
from orchestrator.clusters.doctor.checks.software import Versions
from orchestrator.clusters.doctor.checks.speed import AllReduce, Gpus, MatrixRate
from orchestrator.clusters.doctor.checks.storage import FreeSpace, SharedStorage

CHECKS: tuple[Check, ...] = (
    Answers(), Versions(), Gpus(), MatrixRate(), AllReduce(), SharedStorage(), FreeSpace(),
    Mlflow(), Dataset(), Workers(), DataCores(), SharedMemory(), Files(), Clocks(), Token(),
)  # fmt: skip
"""In the order in which they are shown."""

__all__ = ["CHECKS", "Check"]
