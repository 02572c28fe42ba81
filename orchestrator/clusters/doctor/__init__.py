"""The doctor: looks at a cluster before a GPU is rented or a job is queued.

`diagnose` looks from inside, on the Ray cluster that is joined; `preflight` from outside, before
a job is sent. A check that is to be added is a class in `checks/`.
"""

from __future__ import annotations

import shlex

from orchestrator.clusters.doctor.facts import CheckResult
from orchestrator.clusters.doctor.preflight import check_from_client, preflight
from orchestrator.job import Job
from orchestrator.progress import Progress

__all__ = ["CheckResult", "check_from_client", "diagnose", "preflight", "with_doctor_check"]


def diagnose(job: Job | None, storage: str, progress: Progress) -> list[CheckResult]:
    """Look at every node of the cluster that RAY_ADDRESS names, or at this machine alone.

    Nothing is left behind in `storage`, and no core or GPU is reserved.

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
    """`command`, which runs only where the doctor, on the cluster itself, finds no fault.

    Signals reach the command: it takes the shell's place. The doctor's exit code is 2.
    """
    doctor = shlex.join(("python", "-m", "orchestrator", "doctor", job_file))
    return ("sh", "-c", f"{doctor} && exec {shlex.join(command)}")
