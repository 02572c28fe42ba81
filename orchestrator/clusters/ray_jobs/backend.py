"""Backend of clusters with a Ray job server: submit, status, logs and a clean stop."""

from __future__ import annotations

import getpass
import json
import shlex
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.backend import LIVE_STATES, Submission, SubmissionState, SubmissionStatus
from orchestrator.clusters.ray_jobs.client import RayJobClient
from orchestrator.clusters.ray_jobs.logs import follow_log
from orchestrator.errors import JobFailed, RequestError, suggest

STOP_TIMEOUT_S = 600
"""Seconds for the current step and its checkpoint before Ray kills a stopped job."""

AGENT_READY_TIMEOUT_S = 60.0
"""Timeout in seconds until the head of a new cluster accepts jobs."""

_POLL_S = 1.0
# Exit codes after a signal: `orchestrator run` saves a checkpoint and exits with one of these.
_STOPPED_CODES = (130, 143)

_STATES: dict[str, SubmissionState] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "STOPPED": "stopped",
    "SUCCEEDED": "done",
    "FAILED": "failed",
}
_NAME, _JOB, _FINGERPRINT, _CODE_DIGEST, _SUBMITTED_BY = (
    f"orchestrator.{key}" for key in ("name", "job", "fingerprint", "code", "who")
)


class RayJobsBackend:
    """Submissions of a job are Ray jobs NAME--1, NAME--2, ..., with the job as metadata."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    @cached_property
    def _client(self) -> Any:
        return RayJobClient(self._profile)

    def submit(self, submission: Submission) -> SubmissionStatus:
        """Upload the package and start the command on the head node.

        Raises:
            RequestError: a live submission has the name, or the cluster refuses it.
        """
        numbers = dict(self._of_name(submission.name))
        if numbers and self._to_status(numbers[max(numbers)]).state in LIVE_STATES:
            raise _in_use(submission.name)
        sent = self._submit_as(f"{submission.name}--{max(numbers, default=0) + 1}", submission)
        return self._to_status(self._client.get_job_info(sent))

    def _submit_as(self, number: str, submission: Submission) -> str:
        deadline = time.monotonic() + AGENT_READY_TIMEOUT_S
        while True:
            try:
                found: str = self._client.submit_job(
                    # exec replaces the shell: signals and the exit code are the job's.
                    entrypoint=f"exec {shlex.join(submission.command)}",
                    submission_id=number,
                    runtime_env={
                        "working_dir": str(submission.package),
                        "env_vars": {
                            **submission.env,
                            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_TIMEOUT_S),
                        },
                    },
                    metadata={
                        _NAME: submission.name,
                        _JOB: json.dumps(submission.job),
                        _FINGERPRINT: submission.fingerprint,
                        _CODE_DIGEST: submission.code_digest,
                        _SUBMITTED_BY: getpass.getuser(),
                    },
                )
                return found
            except RuntimeError as error:
                if "already exists" in str(error):  # another process took the number
                    raise _in_use(submission.name) from None
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise RequestError(
                        f"the cluster does not take it: {_last_line(str(error))}",
                        where=self._profile.name,
                        hint="see the head node's dashboard.log and dashboard_agent.log; two"
                        " clusters on a machine need a --dashboard-agent-listen-port each",
                    ) from None
            time.sleep(_POLL_S)

    def list_submissions(self) -> list[SubmissionStatus]:
        """List the last submission of every name, newest first."""
        last: dict[str, tuple[int, Any]] = {}
        for name, number, found in self._all_submissions():
            if number > last.get(name, (0, None))[0]:
                last[name] = (number, found)
        rows = [self._to_status(found) for _, found in last.values()]
        return sorted(rows, key=lambda row: -(row.submitted_at or 0.0))

    def status(self, name: str) -> SubmissionStatus:
        """Status of the last submission of a name."""
        return self._to_status(self._last(name))

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield its output; with `follow`, until it ends."""
        found = self._last(name).submission_id
        if not follow:
            yield self._client.get_job_logs(found)
            return
        yield from follow_log(self._client, found)

    def stop(self, name: str) -> None:
        """Send SIGTERM to the job, which saves after the current step and ends.

        Raises:
            JobFailed: it has not ended in the time that Ray gives it.
        """
        found = self._last(name).submission_id
        self._client.stop_job(found)
        deadline = time.monotonic() + STOP_TIMEOUT_S + 60
        while self._to_status(self._client.get_job_info(found)).state in LIVE_STATES:
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"'{name}' was told to stop and has not ended after {STOP_TIMEOUT_S} s",
                    where=self._profile.name,
                    hint=f"see what it does: orchestrator jobs logs {name} --to"
                    f" {self._profile.name}",
                )
            time.sleep(_POLL_S)

    def _all_submissions(self) -> Iterator[tuple[str, int, Any]]:
        """Name, number and Ray's record of every job that this package submitted."""
        for found in self._client.list_jobs():
            name = (found.metadata or {}).get(_NAME)
            if name is not None and found.submission_id is not None:
                number = found.submission_id.rpartition("--")[2]
                yield name, int(number) if number.isdigit() else 0, found

    def _of_name(self, name: str) -> Iterator[tuple[int, Any]]:
        return ((number, found) for sent, number, found in self._all_submissions() if sent == name)

    def _last(self, name: str) -> Any:
        numbers = dict(self._of_name(name))
        if numbers:
            return numbers[max(numbers)]
        known = sorted({sent for sent, _, _ in self._all_submissions()})
        raise RequestError(
            f"no job '{name}' was sent to cluster '{self._profile.name}'",
            where="NAME",
            hint=suggest(name, known) if known else "nothing was: orchestrator submit JOB --to ...",
        )

    def _to_status(self, found: Any) -> SubmissionStatus:
        """Convert Ray's record to a status."""
        metadata, code = found.metadata or {}, found.driver_exit_code
        if code is not None and code < 0:  # killed by a signal
            code = 128 - code
        state = _STATES[str(getattr(found.status, "value", found.status))]
        if state == "failed" and code in _STOPPED_CODES:
            state = "stopped"
        return SubmissionStatus(
            name=metadata[_NAME],
            cluster=self._profile.name,
            state=state,
            id=found.submission_id,
            submitted_at=_seconds(found.start_time),
            ended_at=_seconds(found.end_time),
            exit_code=code,
            message=_message(state, found.message or ""),
            job=json.loads(metadata[_JOB]),
            code=metadata.get(_CODE_DIGEST, ""),
        )


def _in_use(name: str) -> RequestError:
    return RequestError(
        f"a job '{name}' was sent there and goes on",
        where="name",
        hint="follow or stop it (orchestrator jobs logs|stop), or choose another name",
    )


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _message(state: SubmissionState, text: str) -> str:
    """The first line of Ray's message; for a failure the end of the log follows."""
    lines = [line for line in text.splitlines() if line.strip()]
    if state not in ("queued", "failed") or not lines:
        return ""
    told = [line for line in lines if line.startswith("error: ")]
    return (told[-1].removeprefix("error: ") if told else lines[0])[:300]


def _last_line(text: str) -> str:
    """The last line of a server error, which is a traceback."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
