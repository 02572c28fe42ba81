"""Pure arithmetic on a job: what a step is made of and what it needs. No torch, no ray."""

from orchestrator.estimate.batch import BatchPlan
from orchestrator.estimate.buckets import BucketPlan
from orchestrator.estimate.cluster_estimate import ClusterPlan, plan_on
from orchestrator.estimate.flops import FlopPlan
from orchestrator.estimate.hardware import GPUS, Gpu, find_gpu, peak_flops
from orchestrator.estimate.input_cost import FeedPlan
from orchestrator.estimate.job_estimate import Plan, Recommendation, plan
from orchestrator.estimate.memory import MemoryPlan, memory_plan
from orchestrator.estimate.model_shape import ParameterPlan, TokenPlan

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
