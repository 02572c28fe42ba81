"""What was found on a cluster, as plain data: all that the checks look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.job import Job

CheckState = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """One line of the doctor. `warn` does not keep a job from starting; `fail` does."""

    check: str
    state: CheckState
    text: str
    mend: str = ""
    """What to do about it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as its driver and torch see it."""

    index: int
    name: str
    memory: int = 0
    """Bytes."""

    used: int = 0
    """Bytes that processes hold."""

    uncorrected_ecc_errors: int = 0
    """Memory errors since the driver was loaded that could not be corrected."""

    bf16_flops_per_s: float | None = None
    """Rate of a matrix product in bf16, FLOP/s; None where it could not be computed."""

    error: str = ""
    """Why it could not."""


@dataclass(frozen=True)
class NodeFacts:
    """What one node said of itself. `name` is its address, as Ray knows it."""

    name: str
    cpus: float
    """Cores that Ray deals out."""

    gpus: int
    """GPUs that Ray deals out."""

    versions: dict[str, str]
    """Of python, ray, torch, ...; packages that are not there are missing."""

    gpu_list: tuple[GpuFacts, ...] = ()
    fp32_flops_per_s: float | None = None
    """Rate of a matrix product in fp32 on all its cores, FLOP/s."""

    cores: int = 1
    """Cores that its processes may use."""

    shm: int = 0
    """Bytes of /dev/shm; 0 where there is none."""

    object_store: int = 0
    """Bytes of Ray's object store."""

    open_file_limit: int = 0
    """Files that a worker may have open."""

    clock_s: float = 0.0
    """Seconds that its clock is ahead of the driver's."""

    clock_error_s: float = 0.0
    """Seconds that this may be off by."""

    requires_token: bool = False
    """Whether Ray asks for a token there."""

    free: int | None = None
    """Free bytes where the storage lies; None for an object store."""

    write_error: str = ""
    """Why it cannot write to the storage."""

    created_first: bool = False
    """Whether it was the one that created the file that all nodes tried to."""

    missing_writers: tuple[str, ...] = ()
    """Nodes whose files it does not find in the storage."""

    mlflow_error: str = ""
    """Why MLflow does not serve it."""

    digests: dict[str, str] = field(default_factory=dict)
    """By dataset, its index's digest."""

    data_errors: dict[str, str] = field(default_factory=dict)
    """By dataset, why it cannot be read."""


@dataclass(frozen=True)
class AllReduceRates:
    """All-reduce between nodes, one process on each."""

    backend: str
    """gloo or nccl."""

    over_all_nodes: float | None = None
    """Bytes per second and node that an all-reduce over all nodes moves."""

    per_node: dict[str, float] = field(default_factory=dict)
    """By node, the same with the better of two neighbours."""

    error: str = ""
    """Why it could not be measured."""


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster, and the job that it is to run."""

    nodes: tuple[NodeFacts, ...]
    storage: str = ""
    mlflow: str = ""
    """Where runs are tracked."""

    mlflow_error: str = ""
    """Why that is known already to be wrong."""

    job: Job | None = None
    datasets: tuple[str, ...] = ()
    """The job's datasets that are packed already."""

    data_error: str = ""
    """Why the job's data cannot be found."""

    unpacked_sources: tuple[str, ...] = ()
    """The job's sources that are not packed yet."""

    unresponsive: dict[str, str] = field(default_factory=dict)
    """Nodes that did not answer, and why."""

    network: AllReduceRates | None = None
    """None where there is one node, or nothing could be asked."""
