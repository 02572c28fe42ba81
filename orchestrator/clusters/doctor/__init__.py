"""The doctor: checks a cluster before a job is submitted to it.

`diagnose` checks from inside, as a driver of the Ray cluster; `preflight` from the machine that
submits, before it does. A new check is a class in `checks/`.
"""

from __future__ import annotations

import shlex

from orchestrator.clusters.doctor.facts import CheckResult
from orchestrator.clusters.doctor.preflight import check_from_client, preflight
from orchestrator.job import Job
from orchestrator.progress import Progress

__all__ = ["CheckResult", "check_from_client", "diagnose", "preflight", "with_doctor_check"]


def diagnose(job: Job | None, storage: str, progress: Progress) -> list[CheckResult]:
    """Check every node of the cluster that RAY_ADDRESS names, or this machine alone.

    It reserves no core or GPU, and removes what it writes to `storage`.

    Raises:
        RequestError: no cluster answers at RAY_ADDRESS, or it refuses the token.
    """
    from orchestrator.clusters.doctor.checks import CHECKS
    from orchestrator.clusters.doctor.collect_facts import collect_facts
    from orchestrator.ray_session import ray_session
    from orchestrator.storage import Storage

    with ray_session():
        facts = collect_facts(job, Storage(storage).root, progress)
    return [finding for check in CHECKS for finding in check.run(facts)]


def with_doctor_check(command: tuple[str, ...], job_file: str) -> tuple[str, ...]:
    """A command that runs the doctor on the cluster, and `command` only if no check fails.

    `exec` replaces the shell, so that signals reach the command. The doctor's exit code is 2.
    """
    doctor = shlex.join(("python", "-m", "orchestrator", "doctor", job_file))
    return ("sh", "-c", f"{doctor} && exec {shlex.join(command)}")
