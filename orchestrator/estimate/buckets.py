"""A training whose clips have several shapes: what a step of each costs, and a step on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from orchestrator.estimate.flops import FlopEstimate, estimate_flops
from orchestrator.estimate.objective_cost import countable
from orchestrator.estimate.token_counts import TokenCounts, count_tokens
from orchestrator.job import Bucket, ClipSpec, TrainJob


@dataclass(frozen=True)
class BucketEstimate:
    """The steps whose clips are of one shape."""

    frames: int
    size: int
    share: float
    """Of the steps."""

    tokens: TokenCounts
    flops: float | None
    """Model FLOPs of one such step; None where a part is a user's own."""

    @property
    def bucket(self) -> Bucket:
        """The shape."""
        return Bucket(self.frames, self.size)


def bucket_estimates(job: TrainJob) -> tuple[BucketEstimate, ...]:
    """Every shape of a job's clips, in the order of the sources; mostly one."""
    plans = []
    for bucket, share in job.data.bucket_shares.items():
        one = _job_for_bucket(job, bucket)
        tokens = count_tokens(one)
        flops = estimate_flops(one).total if countable(one) else None
        plans.append(BucketEstimate(*bucket, share, tokens, flops))
    return tuple(plans)


def mean_flops(job: TrainJob) -> FlopEstimate:
    """FLOPs of a step of a job whose parts are `countable`, on average."""
    shares = job.data.bucket_shares
    jobs = [_job_for_bucket(job, bucket) for bucket in shares]
    return _mean([estimate_flops(one) for one in jobs], list(shares.values()))


def job_at_heaviest_bucket(job: TrainJob) -> TrainJob:
    """The job as it is in the steps that need the most memory: those of the most tokens."""

    def weight(bucket: Bucket) -> tuple[int, int]:
        time, height, width = job.token_grid_of(bucket)
        return time * height * width, bucket.frames * bucket.size**2

    if len(job.data.buckets) == 1:
        return job
    return _job_for_bucket(job, max(job.data.buckets, key=weight))


def _job_for_bucket(job: TrainJob, bucket: Bucket) -> TrainJob:
    if bucket == job.data.default_clip_spec.bucket:
        return job
    return job.with_clip_spec(ClipSpec(bucket.frames, job.data.fps, bucket.size))


def _mean(plans: Sequence[FlopEstimate], shares: Sequence[float]) -> FlopEstimate:
    if len(plans) == 1:
        return plans[0]
    return FlopEstimate(
        **{
            field.name: sum(
                share * getattr(one, field.name) for one, share in zip(plans, shares, strict=True)
            )
            for field in fields(FlopEstimate)
        }
    )
