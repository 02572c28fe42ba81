"""A batch script of Slurm that brings Ray up on its allocation, runs one job and queues itself
again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from orchestrator.cluster_profile.schema import NodeGroup, Slurm
from orchestrator.clusters.adapt_job import adapt_job, job_environment
from orchestrator.clusters.render.sbatch_body import SCRIPT_BODY
from orchestrator.errors import RequestError
from orchestrator.job import Job, explicit_job_dict

_WORD = re.compile(r"[\w.,:@+/-]+")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
# Of a node's memory, for objects that tasks hand to one another; Ray's own share.
_STORE = 0.3
_HEREDOC_TAG = "ORCHESTRATOR_JOB"


def job_script(profile: Slurm, job: Job, command: str) -> str:
    """A script with the job in it, to be handed to `sbatch` in the folder of the code.

    `command` is what the script says it comes from.

    Raises:
        RequestError: the profile asks for what one allocation cannot be.
    """
    data = explicit_job_dict(adapt_job(job, profile, Path.cwd()))
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    env = job_environment(profile)
    written = f"cat >\"$folder/job.yaml\" <<'{_HEREDOC_TAG}' || exit 1\n{text}{_HEREDOC_TAG}\n"
    run = 'python -m orchestrator run "$folder/job.yaml"'
    return _script(profile, job.name, run, env, command, written)


def submitted_script(
    profile: Slurm, name: str, command: tuple[str, ...], env: Mapping[str, str], sent: str
) -> str:
    """The script of a job whose code was unpacked where `sbatch` starts it. Its first argument is
    the folder for its state, its token and Ray's logs.

    Raises:
        RequestError: the profile asks for what one allocation cannot be.
    """
    return _script(profile, name, shlex.join(command), env, sent, "")


def _script(
    profile: Slurm, name: str, run: str, env: Mapping[str, str], command: str, written: str
) -> str:
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Rendered by: {' '.join(command.split())}",
            "# Change the profile and render again, not this file.",
            "# Values are quoted whole; signals and srun call functions.",
            "# shellcheck disable=SC2016,SC2317",
            *(f"#SBATCH {option}" for option in _options(profile, name)),
            "",
            *_variables(profile, name, env),
            "",
            "# What the profile does on a node before anything runs.",
            "# shellcheck disable=SC1090,SC1091",
            "prepare() {",
            *(profile.setup or (":",)),
            "}",
            "",
            "# The job itself, in place of this shell: signals and the exit code are its own.",
            "run_job() {",
            f"exec setsid {run}",
            "}",
            "",
            "write_job() {",
            written or ":",
            "}",
            "",
            SCRIPT_BODY,
        ]
    )


def _options(profile: Slurm, name: str) -> Iterator[str]:
    if _seconds(profile.time) <= profile.notice_s:
        raise RequestError(
            f"notice_s {profile.notice_s} is not below the time limit {profile.time}: the job"
            " would be told to end as it begins, for ever",
            where=f"profile '{profile.name}'",
            hint="give it more time, or a shorter notice_s",
        )
    node, least, most = _nodes(profile)
    yield f"--job-name={name}"
    yield f"--output={name}-%j.log"
    yield "--open-mode=append"
    yield "--requeue"
    yield f"--signal=B:USR1@{profile.notice_s}"
    yield f"--time={profile.time}"
    # With --ntasks-per-node Slurm would give the least of a range, whatever is idle.
    yield f"--nodes={least}" if least == most else f"--nodes={least}-{most}"
    yield f"--cpus-per-task={node.cpus}"
    yield f"--mem={node.memory // 2**20}M"
    if node.gpus:
        kind = f"{_require_single_word(profile, 'gpu', node.gpu)}:" if node.gpu else ""
        yield f"--gpus-per-node={kind}{node.gpus}"
    if profile.partition:
        yield f"--partition={_require_single_word(profile, 'partition', profile.partition)}"
    if profile.account:
        yield f"--account={_require_single_word(profile, 'account', profile.account)}"
    for option in profile.options:
        if not option.startswith("-") or "\n" in option:
            raise _invalid_value(
                profile, "options", option, "write it like --qos=high, one to a line"
            )
        yield option


def _nodes(profile: Slurm) -> tuple[NodeGroup, int, int]:
    """What every node is, and how many there are at least and at most."""
    head = profile.nodes["head"]
    shape = (head.cpus, head.gpus, head.gpu, head.memory)
    for name, group in profile.nodes.items():
        if group.max_nodes and (group.cpus, group.gpus, group.gpu, group.memory) != shape:
            raise RequestError(
                f"'{name}' differs from 'head', and the nodes of one allocation are alike",
                where=f"profile '{profile.name}': nodes",
                hint="give both the same cpus, gpus, gpu and memory; the head works as well",
            )
    groups = profile.nodes.values()
    return head, sum(group.min for group in groups), sum(group.max_nodes for group in groups)


def _variables(profile: Slurm, name: str, env: Mapping[str, str]) -> Iterator[str]:
    node, _, _ = _nodes(profile)
    folder = shlex.quote(f"{profile.workdir}/{name}/by-hand")
    store = int(node.memory * _STORE)
    yield f'folder=${{1:-{folder}"-$SLURM_JOB_ID"}}'
    yield f"notice_s={profile.notice_s}"
    yield "export " + " ".join(
        (
            f"node_cpus={node.cpus}",
            f"node_gpus={node.gpus}",
            f"node_memory={node.memory - store}",
            f"node_store={store}",
        )
    )
    for variable, value in env.items():
        if not _VARIABLE.fullmatch(variable):
            raise _invalid_value(profile, "env", variable, "use letters, digits and _")
        yield f"export {variable}={shlex.quote(value)}"


def _seconds(time: str) -> int:
    """A time limit as Slurm reads it: MIN, MIN:SEC, H:MIN:SEC, D-H, D-H:MIN, D-H:MIN:SEC."""
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(
        unit * part for unit, part in zip(units, parts, strict=False)
    )


def _require_single_word(profile: Slurm, key: str, value: str) -> str:
    if not _WORD.fullmatch(value):
        raise _invalid_value(profile, key, value, "one word, without spaces")
    return value


def _invalid_value(profile: Slurm, key: str, value: str, hint: str) -> RequestError:
    return RequestError(
        f"'{value}' cannot stand there", where=f"profile '{profile.name}': {key}", hint=hint
    )
