"""Run Slurm's commands (sbatch, squeue, scancel) and parse their output."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RequestError

_TIMEOUT_S = 120
"""Timeout in seconds: the commands themselves retry before they report no connection."""

_FORMAT = "%i|%T|%r"
_UNKNOWN_JOB_MESSAGE = "Invalid job id"


@dataclass(frozen=True)
class QueueEntry:
    """A job in Slurm's queue."""

    state: str
    """PENDING, RUNNING, CANCELLED, ..."""

    reason: str
    """Why it is pending; empty if Slurm gives no reason."""


def submit_script(script: Path, code: Path, log: Path, folder: Path, cluster: str) -> str:
    """Submit a script with `sbatch`, to run in the folder `code`; returns Slurm's job id.

    Raises:
        RequestError: Slurm is not there or does not take it.
    """
    said = _call(
        [
            "sbatch",
            "--parsable",
            f"--chdir={code}",
            # sbatch expands % patterns in this path.
            f"--output={str(log).replace('%', '%%')}",
            str(script),
            str(folder),
        ],
        cluster,
    )
    return said.strip().splitlines()[-1].partition(";")[0]


def query_jobs(ids: Sequence[str], cluster: str) -> dict[str, QueueEntry]:
    """Query these jobs by id; jobs that Slurm no longer lists are left out.

    Raises:
        RequestError: Slurm is not there or does not answer.
    """
    if not ids:
        return {}
    said = _call(
        ["squeue", "--noheader", "--states=all", f"--format={_FORMAT}", f"--jobs={','.join(ids)}"],
        cluster,
    )
    return parse_queue(said)


def parse_queue(said: str) -> dict[str, QueueEntry]:
    """Parse `squeue`'s lines: job id to entry."""
    found = {}
    for line in said.splitlines():
        job, state, reason = line.strip().split("|", 2)
        found[job] = QueueEntry(state, "" if reason in ("None", "(null)") else reason)
    return found


def cancel_pending(job: str, cluster: str) -> None:
    """Cancel a job that has not started."""
    _call(["scancel", "--state=PENDING", job], cluster)


def send_sigterm(job: str, cluster: str) -> None:
    """Send SIGTERM to a job's script, which lets the job save."""
    _call(["scancel", "--signal=TERM", "--batch", job], cluster)


def _call(command: list[str], cluster: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError:
        raise RequestError(
            f"this machine has no {command[0]}",
            where=f"cluster {cluster}",
            hint="submit from a machine of the Slurm cluster, such as its login node",
        ) from None
    except subprocess.TimeoutExpired:
        raise _no_answer_error(cluster, f"{command[0]} got no answer in {_TIMEOUT_S} s") from None
    if done.returncode == 0 or _UNKNOWN_JOB_MESSAGE in done.stderr:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = lines[-1].strip() if lines else f"exit code {done.returncode}"
    if command[0] == "sbatch" and "submission failed" in said:
        raise RequestError(
            f"Slurm does not take the job: {said.rpartition(': ')[2]}",
            where=f"cluster {cluster}",
            hint="see the profile's nodes, partition, account, time and options; sinfo shows"
            " what there is",
        )
    raise _no_answer_error(cluster, said)


def _no_answer_error(cluster: str, said: str) -> RequestError:
    return RequestError(
        f"Slurm does not answer: {said}",
        where=f"cluster {cluster}",
        hint="see whether its controller runs: scontrol ping",
    )
