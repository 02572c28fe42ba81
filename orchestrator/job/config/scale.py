"""The scale section of jobs that train: how many workers, and what each takes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Discriminator,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.job.config.base import Section, field_error


class ElasticWorkers(Section):
    """As many workers as the cluster has room for, between two numbers."""

    min: PositiveInt = 1
    """Training waits for this many workers."""

    max: PositiveInt
    """And takes no more than this many."""

    resize_s: PositiveFloat = 60.0
    """Seconds between looks at the cluster for more room. A resize restarts the workers from
    their last checkpoint."""

    @model_validator(mode="after")
    def _in_order(self) -> ElasticWorkers:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


Workers = Annotated[
    Annotated[PositiveInt, Tag("fixed")] | Annotated[ElasticWorkers, Tag("elastic")],
    Discriminator(lambda v: "elastic" if isinstance(v, (dict, ElasticWorkers)) else "fixed"),
]


class NodeShape(Section):
    """Nodes of one shape in a cluster that starts and ends them on demand."""

    count: PositiveInt
    """Nodes at most."""

    cpus: PositiveInt
    """Cores of a node."""

    gpus: NonNegativeInt = 0
    """GPUs of a node."""


class Scale(Section):
    """How the step is spread over workers. Nothing here changes what is learned."""

    workers: Workers = 1
    """Training workers (one GPU each where there are GPUs): a number, or min and max."""

    zero: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage."""

    offload: bool = False
    """Keep the optimizer's state in host memory."""

    global_batch: PositiveInt = 32
    """Clips per optimizer step over all workers; the same at every number of workers."""

    micro_batch: PositiveInt = 16
    """Clips per forward and worker; gradient accumulation follows from it."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 computes in bf16 with fp32 masters and fp32 gradient accumulation."""

    compile: bool = False
    """torch.compile the encoder and predictor blocks."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU per worker where the cluster has any."""

    cpus: PositiveFloat | None = None
    """CPU cores that a worker reserves and, from one on, the threads that it computes with.
    Default: it reserves the cluster's cores over its workers, one left for data, and computes with
    its host's cores over the workers there."""

    nodes: tuple[NodeShape, ...] = ()
    """What a cluster that starts nodes on demand has at most: workers for which there is room
    only then are waited for, not refused. `submit` and `cluster render` write it from the profile.
    Default: the nodes that are there."""

    timeout: PositiveFloat = 300.0
    """Seconds that a rank may wait for another before the workers are started again. After half
    of it the ranks that stall are named, with what they were doing."""

    def threads(self, cores: int) -> int:
        """Threads of a worker whose share of its host is `cores`."""
        return cores if self.cpus is None or self.cpus < 1 else int(self.cpus)

    @property
    def max_workers(self) -> int:
        """The number of workers, or the largest."""
        return self.workers.max if isinstance(self.workers, ElasticWorkers) else self.workers

    @property
    def min_workers(self) -> int:
        """The number of workers, or the smallest."""
        return self.workers.min if isinstance(self.workers, ElasticWorkers) else self.workers

    @model_validator(mode="after")
    def _offload_needs_shards(self) -> Scale:
        if self.offload and self.zero == 0:
            raise field_error(
                "scale.offload", "needs a sharded optimizer; set scale.zero to 1, 2 or 3"
            )
        return self
