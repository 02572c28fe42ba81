"""Pure arithmetic on a job: what a step is made of and what it needs. No torch, no ray."""

import sys
from types import ModuleType
from typing import Any

from orchestrator.plan.batch import BatchPlan
from orchestrator.plan.buckets import BucketPlan
from orchestrator.plan.cluster import ClusterPlan, plan_on
from orchestrator.plan.feeding import FeedPlan
from orchestrator.plan.flops import FlopPlan
from orchestrator.plan.hardware import GPUS, Gpu, find_gpu, peak_flops
from orchestrator.plan.memory import MemoryPlan, memory_plan
from orchestrator.plan.shape import ParameterPlan, TokenPlan
from orchestrator.plan.whole import Plan, Recommendation, plan

__all__ = [
    "GPUS",
    "BatchPlan",
    "BucketPlan",
    "ClusterPlan",
    "FeedPlan",
    "FlopPlan",
    "Gpu",
    "MemoryPlan",
    "ParameterPlan",
    "Plan",
    "Recommendation",
    "TokenPlan",
    "find_gpu",
    "memory_plan",
    "peak_flops",
    "plan",
    "plan_on",
]


class _Room(ModuleType):
    """Importing this package sets `orchestrator.plan` to the package, which would hide the
    function that `from orchestrator import plan` promises. So the package itself can be called.
    """

    def __call__(self, *args: Any, **options: Any) -> Plan:
        return plan(*args, **options)


sys.modules[__name__].__class__ = _Room
