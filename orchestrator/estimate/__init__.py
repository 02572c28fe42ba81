"""Pure arithmetic on a job: what a step is made of and what it needs. No torch, no ray."""

from orchestrator.estimate.batch import BatchSizes
from orchestrator.estimate.buckets import BucketEstimate
from orchestrator.estimate.cluster_estimate import ClusterEstimate, estimate_on_cluster
from orchestrator.estimate.flops import FlopEstimate
from orchestrator.estimate.hardware import GPUS, Gpu, find_gpu, peak_flops
from orchestrator.estimate.input_cost import InputEstimate
from orchestrator.estimate.job_estimate import JobEstimate, Recommendation, estimate_job
from orchestrator.estimate.memory import MemoryEstimate, estimate_memory
from orchestrator.estimate.model_shape import ParameterCounts
from orchestrator.estimate.objective_cost import ObjectiveCost
from orchestrator.estimate.token_counts import TokenCounts

__all__ = [
    "GPUS",
    "BatchSizes",
    "BucketEstimate",
    "ClusterEstimate",
    "FlopEstimate",
    "Gpu",
    "InputEstimate",
    "JobEstimate",
    "MemoryEstimate",
    "ObjectiveCost",
    "ParameterCounts",
    "Recommendation",
    "TokenCounts",
    "estimate_job",
    "estimate_memory",
    "estimate_on_cluster",
    "find_gpu",
    "peak_flops",
]
