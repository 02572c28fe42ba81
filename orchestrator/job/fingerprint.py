"""What makes a job the same job: a digest of the keys that decide what is learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.job.config.former_names import former_dict
from orchestrator.job.loading.load import Job

# A run may be moved, resized and watched differently and still be the same run.
_NOT_IDENTITY = (
    "storage",
    "track",
    "checkpoint",
    "evaluate",
    "callbacks",
    "scale.workers",
    "scale.zero",
    "scale.offload",
    "scale.micro_batch",
    "scale.compile",
    "scale.activation_checkpointing",
    "scale.device",
    "scale.cpus",
    "scale.nodes",
    "scale.timeout",
    "optim.spike_limit",
    "data.decode_threads",
    "data.prefetch",
    "data.bad_limit",
    "bad_limit",
    "cpus",
)


def job_dict(job: Job) -> dict[str, Any]:
    """The whole job as plain data, defaults included, keys as a file spells them."""
    return job.model_dump(mode="json", by_alias=True)


def explicit_job_dict(job: Job) -> dict[str, Any]:
    """The keys that were given, as a file spells them: `build_job` makes the same job of it."""
    given: dict[str, Any] = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {"kind": job.kind, "name": job.name, **given}


def identity(job: Job) -> dict[str, Any]:
    """The keys that decide what the job makes, flat: `{"optim.lr": 0.001, ...}`.

    Keys that were renamed have their former names here, as in the records of earlier versions.
    """
    stages = job.stage_jobs()
    if stages:
        return {
            f"{name}.{key}": value for name, one in stages for key, value in identity(one).items()
        }
    flat = flatten(former_dict(job, job_dict(job)))
    return {
        key: value
        for key, value in flat.items()
        if not any(key == skip or key.startswith(f"{skip}.") for skip in _NOT_IDENTITY)
    }


def fingerprint(job: Job) -> str:
    """sha256 (16 hex digits) of the job's identity."""
    text = json.dumps(identity(job), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def present_names(job: Job) -> dict[str, str]:
    """The key that a file gives, by the key in the job's identity: they differ where it was
    renamed."""
    present = job_dict(job)
    return dict(zip(flatten(former_dict(job, present)), flatten(present), strict=True))


def differences(
    old: dict[str, Any], new: dict[str, Any], names: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Lines that say what changed between two identities; `names` are those to show keys under."""
    return [
        f"{names.get(key, key)}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists by position."""
    if isinstance(value, dict):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, item in items:
        out.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return out
