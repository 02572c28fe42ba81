"""Facts about a cluster, as plain data: the input of the checks, and their results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.job import Job

CheckState = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """Result of one check. `warn` lets a job start, `fail` does not."""

    check: str
    state: CheckState
    text: str
    hint: str = ""
    """What to do about it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`; `mend` is an older name of `hint`."""
        return {**asdict(self), "mend": self.hint}


@dataclass(frozen=True)
class GpuFacts:
    """Facts about a GPU, from its driver and from torch."""

    index: int
    name: str
    memory: int = 0
    """Bytes."""

    used: int = 0
    """Bytes in use by processes."""

    uncorrected_ecc_errors: int = 0
    """Memory errors since the driver was loaded that could not be corrected."""

    bf16_flops_per_s: float | None = None
    """Rate of a matrix product in bf16, FLOP/s; None if it could not be measured."""

    error: str = ""
    """Why the rate could not be measured."""


@dataclass(frozen=True)
class NodeFacts:
    """Facts about one node. `name` is its address in Ray."""

    name: str
    cpus: float
    """Cores that Ray allocates."""

    gpus: int
    """GPUs that Ray allocates."""

    versions: dict[str, str]
    """Of python, ray, torch, ...; packages that are not installed are left out."""

    gpu_list: tuple[GpuFacts, ...] = ()
    fp32_flops_per_s: float | None = None
    """Rate of a matrix product in fp32 on all its cores, FLOP/s."""

    cores: int = 1
    """Cores that its processes may use."""

    shm: int = 0
    """Bytes of /dev/shm; 0 if there is none."""

    object_store: int = 0
    """Bytes of Ray's object store."""

    open_file_limit: int = 0
    """Files that a worker may have open."""

    clock_s: float = 0.0
    """Seconds that its clock is ahead of the driver's."""

    clock_error_s: float = 0.0
    """Uncertainty of `clock_s`, in seconds."""

    requires_token: bool = False
    """Whether Ray requires a token there."""

    free: int | None = None
    """Free bytes on the storage's disk; None for an object store."""

    write_error: str = ""
    """Why it cannot write to the storage."""

    created_first: bool = False
    """Whether it created the file that every node tried to create first."""

    missing_writers: tuple[str, ...] = ()
    """Nodes whose files in the storage it cannot read."""

    mlflow_error: str = ""
    """Why it cannot use MLflow; empty if it can."""

    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the index of each dataset."""

    data_errors: dict[str, str] = field(default_factory=dict)
    """Why a dataset cannot be read, for each that cannot."""


@dataclass(frozen=True)
class AllReduceRates:
    """All-reduce between nodes, one process on each."""

    backend: str
    """gloo or nccl."""

    over_all_nodes: float | None = None
    """Bytes per second and node that an all-reduce over all nodes moves."""

    per_node: dict[str, float] = field(default_factory=dict)
    """Bytes per second of each node with the faster of its two neighbours."""

    error: str = ""
    """Why it could not be measured."""


@dataclass(frozen=True)
class ClusterFacts:
    """Facts about a cluster and the job that shall run on it."""

    nodes: tuple[NodeFacts, ...]
    storage: str = ""
    mlflow: str = ""
    """Where runs are tracked."""

    mlflow_error: str = ""
    """Why that address cannot be right, if the driver can tell."""

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
    """None if fewer than two nodes can take part."""
