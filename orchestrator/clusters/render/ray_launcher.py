"""Files for Ray's cluster launcher (`ray up`): aws, gcp, and hosts in a rack."""

from __future__ import annotations

import shlex
from typing import Any

from orchestrator.cluster_profile.schema import Aws, Gcp, NodeGroup, OnPrem
from orchestrator.clusters.render.yaml_format import comment, header_comment, to_yaml
from orchestrator.errors import RequestError

_IDLE_MINUTES = 10
_TOKEN = "~/.ray/auth_token"
"""Where Ray looks for its token by itself, here and on the nodes."""

_GCP_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_WORKER_START_OPTIONS = "--address=$RAY_HEAD_IP:6379"
_HEAD_START_OPTIONS = (
    "--head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml"
)


def launcher_file(profile: Aws | Gcp | OnPrem, command: str) -> str:
    """The YAML that `ray up` takes.

    Raises:
        RequestError: the nodes would have no machine image, or nothing to run.
    """
    if not profile.image and not profile.setup:
        raise RequestError(
            "the nodes would have no orchestrator",
            where=f"profile '{profile.name}'",
            hint="name an image that has it, or give lines of setup that install it",
        )
    body: dict[str, Any] = {
        "cluster_name": profile.name,
        **_provider(profile),
        "auth": {"ssh_user": profile.user},
        **_docker(profile),
        "idle_timeout_minutes": _IDLE_MINUTES,
        # Files, so that the token stands on no command line and in no log.
        "file_mounts": {_TOKEN: str(profile.token.file or _TOKEN)},
        # A rack has its software; its lines only make it the shell's.
        "setup_commands": [] if isinstance(profile, OnPrem) else list(profile.setup),
        "head_setup_commands": [],
        "worker_setup_commands": [],
        **_start_commands(profile),
    }
    return header_comment(command) + "#\n" + _usage_comment(profile) + to_yaml(body)


def _usage_comment(profile: Aws | Gcp | OnPrem) -> str:
    token = profile.token.file or _TOKEN
    file = "cluster.yaml"
    return comment(
        f"Needs Ray's token in {token}, which is copied to every node: ray get-auth-token"
        " --generate makes one. The dashboard listens on the head's own address only; a tunnel"
        " leads there.",
        f"  ray up {file}",
        f"  ray dashboard {file}     # http://localhost:8265, what the profile's address names",
        f"  ray down {file}",
    )


def _provider(profile: Aws | Gcp | OnPrem) -> dict[str, Any]:
    """Where the machines come from, and which there are."""
    if isinstance(profile, OnPrem):
        head, *others = profile.hosts
        provider = {"type": "local", "head_ip": head, "worker_ips": others}
        return {"provider": provider, "min_workers": len(others), "max_workers": len(others)}
    provider = {"type": profile.kind, "region": profile.region}
    if profile.zones:
        provider["availability_zone"] = ",".join(profile.zones)
    if isinstance(profile, Gcp):
        provider["project_id"] = profile.project
        if not profile.zones:
            raise RequestError(
                "gcp needs a zone",
                where=f"profile '{profile.name}': zones",
                hint=f"add zones: [{profile.region}-a]",
            )
    work = profile.worker_groups
    return {
        "provider": provider,
        "max_workers": sum(group.max_nodes for name, group in work.items() if name != "head"),
        "available_node_types": {
            name: _node_type(profile, group, head=name == "head", works=name in work)
            for name, group in profile.nodes.items()
        },
        "head_node_type": "head",
    }


def _node_type(profile: Aws | Gcp, group: NodeGroup, *, head: bool, works: bool) -> dict[str, Any]:
    resources = {"CPU": group.cpus, "GPU": group.gpus} if works else {"CPU": 0}
    if not resources.get("GPU"):
        resources.pop("GPU", None)
    counts = {} if head else {"min_workers": group.min, "max_workers": group.max_nodes}
    config = _aws(profile, group) if isinstance(profile, Aws) else _gcp(profile, group)
    return {"resources": resources, **counts, "node_config": config}


def _aws(profile: Aws, group: NodeGroup) -> dict[str, Any]:
    config: dict[str, Any] = {
        "InstanceType": group.instance,
        "ImageId": _machine_image(profile),
        # Credentials of the node are handed out by version 2 of its metadata service only.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    }
    if group.disk:
        disk = {"VolumeSize": _gigabytes(group.disk), "VolumeType": "gp3", "Encrypted": True}
        config["BlockDeviceMappings"] = [{"DeviceName": "/dev/sda1", "Ebs": disk}]
    if profile.service_account:
        config["IamInstanceProfile"] = {"Arn": profile.service_account}
    if group.spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return config


def _gcp(profile: Gcp, group: NodeGroup) -> dict[str, Any]:
    boot: dict[str, Any] = {"sourceImage": _machine_image(profile)}
    if group.disk:
        boot["diskSizeGb"] = _gigabytes(group.disk)
    config: dict[str, Any] = {
        "machineType": group.instance,
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": boot}],
    }
    scheduling: dict[str, Any] = {}
    if group.gpus:
        # Machines with GPUs cannot be moved to another host.
        scheduling["onHostMaintenance"] = "TERMINATE"
    if group.spot:
        scheduling |= {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
    if scheduling:
        config["scheduling"] = scheduling
    if profile.service_account:
        account = {"email": profile.service_account, "scopes": [_GCP_SCOPE]}
        config["serviceAccounts"] = [account]
    return config


def _docker(profile: Aws | Gcp | OnPrem) -> dict[str, Any]:
    """Ray adds the GPUs and sizes /dev/shm. NCCL wants memory locked and many files open."""
    if not profile.image:
        return {}
    limits = ["--ulimit memlock=-1:-1", "--ulimit nofile=1048576:1048576"]
    return {
        "docker": {
            "image": profile.image,
            "container_name": "orchestrator",
            "pull_before_run": False,
            "run_options": limits,
        }
    }


def _start_commands(profile: Aws | Gcp | OnPrem) -> dict[str, Any]:
    """One shell line each: the launcher runs every command in a shell of its own."""
    variables = {"RAY_AUTH_MODE": "token", **dict(sorted(profile.env.items()))}
    if profile.mlflow:
        variables.setdefault("MLFLOW_TRACKING_URI", profile.mlflow)
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    first = "".join(f"{line}; " for line in profile.setup) if isinstance(profile, OnPrem) else ""
    limits = "ulimit -n 65536; ulimit -l unlimited 2>/dev/null || true"
    before = f"{first}export {words}; {limits}; ray start"
    only_leads = "head" not in profile.worker_groups
    no_work = " --num-cpus=0 --num-gpus=0" if only_leads else ""
    stop = f"{first}ray stop"  # what an earlier start left on this very node
    return {
        "head_start_ray_commands": [stop, f"{before} {_HEAD_START_OPTIONS}{no_work}"],
        "worker_start_ray_commands": [stop, f"{before} {_WORKER_START_OPTIONS}"],
    }


def _machine_image(profile: Aws | Gcp) -> str:
    if profile.machine_image is None:
        raise RequestError(
            "the machines have nothing to boot from",
            where=f"profile '{profile.name}': machine_image",
            hint="name an image with the GPUs' driver (and docker, where there is an image)",
        )
    return profile.machine_image


def _gigabytes(count: int) -> int:
    return -(-count // 2**30)
