"""Cluster profiles: where a job can be sent, what is there, and what it costs.

A profile is a YAML file (`cluster/*.yaml`) with a `kind`, checked like a job file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveInt, model_validator

from orchestrator.cluster_profile.secret_scan import SECRET_HINT, looks_secret
from orchestrator.job.config.base import Name, Section, field_error

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(?:i?B|i)?\s*", value)
    if match is None:
        raise ValueError(f"'{value}' is no size; write it like 64GiB")
    return int(float(match[1]) * _UNITS[match[2]])


Bytes = Annotated[int, Field(gt=0), BeforeValidator(_bytes)]
"""Bytes, as a number or like `64GiB`."""


class NodeGroup(Section):
    """Nodes of one shape."""

    min: Annotated[int, Field(ge=0)] = 1
    """Nodes that are always there."""

    max: Annotated[int, Field(ge=0)] | None = None
    """Nodes at most; none: `min`, a group of fixed size."""

    cpus: PositiveInt
    """Cores of a node."""

    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a node."""

    gpu: str | None = None
    """What GPUs: h200, h100, a100, ... or what Kubernetes and Slurm call them."""

    memory: Bytes
    """RAM of a node, like `64GiB`."""

    price: NonNegativeFloat | None = None
    """What a node costs in an hour, in the currency of your choice."""

    instance: str | None = None
    """Machine type of a cloud: p5.48xlarge, a3-highgpu-8g."""

    spot: bool = False
    """Nodes may be taken away at short notice."""

    disk: Bytes | None = None
    """Clouds: disk of a node, like `200GiB`. None: the machine image's own."""

    devices: dict[str, PositiveInt] = Field({})
    """Kubernetes: devices of a node besides GPUs, such as `rdma/hca: 1` for InfiniBand. Its pods
    may then lock memory, which RDMA needs."""

    selector: dict[str, str] = Field({})
    """Kubernetes: labels of the nodes that the pods go to."""

    taints: tuple[str, ...] = ()
    """Kubernetes: taints that the pods bear besides that of GPUs: KEY or KEY=VALUE."""

    @model_validator(mode="after")
    def _check(self) -> NodeGroup:
        if self.max_nodes < self.min:
            raise field_error("max", f"max {self.max} is below min {self.min}")
        return self

    @property
    def max_nodes(self) -> int:
        """Nodes at most."""
        return self.min if self.max is None else self.max


class Token(Section):
    """Where the cluster's token is read from; never the token itself."""

    env: str | None = None
    """Variable that holds it."""

    file: Path | None = None
    """File that holds it."""

    secret: str | None = None
    """Kubernetes: the Secret that the cluster's pods get it from, under KubeRay's key `auth_token`.
    None: KubeRay makes one, of the cluster's name."""


class _Profile(Section):
    runs_jobs_on_head: ClassVar[bool] = False
    supports_autoscaling: ClassVar[bool] = False

    name: Name
    """What `--to` calls it. Default: the name of its file."""

    address: str | None = None
    """Where Ray's job server answers: http://HOST:8265. None: `submit` has to find it, or the
    cluster is made for the job (slurm)."""

    token: Token = Token(env="RAY_AUTH_TOKEN")
    """Where Ray's token is read from, by this machine. Default: the variable RAY_AUTH_TOKEN."""

    nodes: dict[str, NodeGroup]
    """Groups of nodes by name; `head` is the head node."""

    image: str | None = None
    """Container image that every node runs."""

    storage: str | None = None
    """Storage that every node reaches; takes the place of a job's own default."""

    mlflow: str | None = None
    """Address of an MLflow server that every node reaches."""

    env: dict[str, str] = Field({})
    """Environment of every process, such as NCCL_SOCKET_IFNAME. No secrets: they would be read
    by everyone who reads this file."""

    @model_validator(mode="after")
    def _check_head(self) -> _Profile:
        head = self.nodes.get("head")
        if head is None or (head.min, head.max_nodes) != (1, 1):
            raise field_error("nodes", "a cluster has one group 'head' of exactly one node")
        return self

    @property
    def worker_groups(self) -> dict[str, NodeGroup]:
        """The groups that jobs run on. In a cluster that is brought up from rendered files the
        head only leads, where there are others."""
        others = {name: group for name, group in self.nodes.items() if name != "head"}
        return self.nodes if self.runs_jobs_on_head or not others else others

    @property
    def autoscales(self) -> bool:
        """Whether nodes start and end as jobs ask for them."""
        return self.supports_autoscaling and any(
            group.max_nodes > group.min for group in self.nodes.values()
        )

    @model_validator(mode="after")
    def _check_env(self) -> _Profile:
        for name, value in self.env.items():
            if looks_secret(name, value):
                raise field_error(f"env.{name}", f"env.{name} looks like a secret: {SECRET_HINT}")
        return self


class Local(_Profile):
    """A Ray cluster on this machine, started by hand: `ray start --head`."""

    runs_jobs_on_head = True

    kind: Literal["local"] = "local"


class OnPrem(_Profile):
    """Machines in a rack, reached by ssh."""

    kind: Literal["onprem"] = "onprem"

    hosts: tuple[str, ...]
    """Addresses, the head's first."""

    user: str = "root"
    """Who logs in by ssh."""

    setup: tuple[str, ...] = ()
    """Shell lines before Ray starts on a node: source .../activate."""


class KubeRay(_Profile):
    """A RayCluster of the KubeRay operator."""

    supports_autoscaling = True

    kind: Literal["kuberay"] = "kuberay"

    namespace: Name = "default"
    """Kubernetes namespace."""

    queue: str | None = None
    """Kueue's LocalQueue: all pods are admitted together or not at all."""

    priority: str | None = None
    """Kueue's WorkloadPriorityClass."""

    service_account: str | None = None
    """Service account of the pods, for the object store."""

    secrets: tuple[str, ...] = ()
    """Secrets whose keys become variables of every pod."""

    grace_s: Annotated[int, Field(ge=30)] = 300
    """Seconds that a pod which is taken away has to save before it is killed. A spot machine gives
    less, whatever stands here."""

    redis: str | None = None
    """HOST:PORT of a Redis outside the cluster, in which a head that starts again finds its
    state."""

    redis_secret: str | None = None
    """Secret with that Redis' password under the key `password`."""

    mlflow_server: bool = False
    """Render an MLflow server with Postgres as well, whose artifacts lie in `storage`."""


class Slurm(_Profile):
    """An allocation of Slurm in which Ray is brought up for one job."""

    runs_jobs_on_head = True

    kind: Literal["slurm"] = "slurm"

    partition: str | None = None
    """Slurm partition."""

    account: str | None = None
    """Slurm account."""

    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")] = "24:00:00"
    """Time limit of an allocation; a job that needs longer is queued again by itself."""

    notice_s: PositiveInt = 300
    """Seconds before the limit at which the job is told to save."""

    workdir: Path
    """Folder that every node sees: takes the packages of code and the logs."""

    setup: tuple[str, ...] = ()
    """Shell lines before anything runs on a node: module load ..., source .../activate."""

    options: tuple[str, ...] = ()
    """More lines of #SBATCH, such as --qos=high."""


class Cloud(_Profile):
    """Machines that Ray's autoscaler rents."""

    supports_autoscaling = True

    region: str
    """Region of the cloud."""

    zones: tuple[str, ...] = ()
    """Availability zones."""

    user: str = "ubuntu"
    """Who logs in by ssh."""

    setup: tuple[str, ...] = ()
    """Shell lines that prepare a node; with an `image`, inside it."""

    machine_image: str | None = None
    """What a machine boots from, with the GPUs' driver (and docker where there is an `image`): an
    AMI of aws, `projects/...` of gcp."""

    service_account: str | None = None
    """Whom the nodes act as, for the object store: the ARN of an instance profile (aws), the e-mail
    address of a service account (gcp)."""

    @model_validator(mode="after")
    def _check_instances(self) -> Cloud:
        for name, group in self.nodes.items():
            if group.instance is None:
                raise field_error(f"nodes.{name}", f"nodes.{name}: a cloud needs an instance type")
        return self


class Aws(Cloud):
    """Amazon EC2."""

    kind: Literal["aws"] = "aws"


class Gcp(Cloud):
    """Google Compute Engine."""

    kind: Literal["gcp"] = "gcp"

    project: str
    """Google Cloud project."""


Profile = Local | OnPrem | KubeRay | Slurm | Aws | Gcp
PROFILES: dict[str, type[Profile]] = {
    "local": Local,
    "onprem": OnPrem,
    "kuberay": KubeRay,
    "slurm": Slurm,
    "aws": Aws,
    "gcp": Gcp,
}
