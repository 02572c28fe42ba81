"""A training whose clips have several shapes: what a step of each costs, and a step on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from orchestrator.estimate.flops import FlopPlan, flop_plan
from orchestrator.estimate.model_shape import TokenPlan, countable, token_plan
from orchestrator.job import Bucket, ClipSpec, TrainJob


@dataclass(frozen=True)
class BucketPlan:
    """The steps whose clips are of one shape."""

    frames: int
    size: int
    share: float
    """Of the steps."""

    tokens: TokenPlan
    flops: float | None
    """Model FLOPs of one such step; None where a part is a user's own."""

    @property
    def bucket(self) -> Bucket:
        """The shape."""
        return Bucket(self.frames, self.size)


def bucket_plans(job: TrainJob) -> tuple[BucketPlan, ...]:
    """Every shape of a job's clips, in the order of the sources; mostly one."""
    plans = []
    for bucket, share in job.data.shares.items():
        one = _of(job, bucket)
        tokens = token_plan(one)
        flops = flop_plan(one, tokens).total if countable(one) else None
        plans.append(BucketPlan(*bucket, share, tokens, flops))
    return tuple(plans)


def mean_flops(job: TrainJob) -> FlopPlan:
    """FLOPs of a step of a job whose parts are `countable`, on average."""
    shares = job.data.shares
    jobs = [_of(job, bucket) for bucket in shares]
    return _mean([flop_plan(one, token_plan(one)) for one in jobs], list(shares.values()))


def heaviest(job: TrainJob) -> TrainJob:
    """The job as it is in the steps that need the most memory: those of the most tokens."""

    def weight(bucket: Bucket) -> tuple[int, int]:
        time, height, width = job.grid_of(bucket)
        return time * height * width, bucket.frames * bucket.size**2

    if len(job.data.buckets) == 1:
        return job
    return _of(job, max(job.data.buckets, key=weight))


def _of(job: TrainJob, bucket: Bucket) -> TrainJob:
    if bucket == job.data.own.bucket:
        return job
    return job.cut_as(ClipSpec(bucket.frames, job.data.fps, bucket.size))


def _mean(plans: Sequence[FlopPlan], shares: Sequence[float]) -> FlopPlan:
    if len(plans) == 1:
        return plans[0]
    return FlopPlan(
        **{
            field.name: sum(
                share * getattr(one, field.name) for one, share in zip(plans, shares, strict=True)
            )
            for field in fields(FlopPlan)
        }
    )
