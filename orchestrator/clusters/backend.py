"""The protocol of cluster backends, and the records that they exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

SubmissionState = Literal["queued", "running", "done", "failed", "stopped"]
LIVE_STATES: tuple[SubmissionState, ...] = ("queued", "running")


@dataclass(frozen=True)
class Submission:
    """A job that is submitted to a cluster."""

    name: str
    """Name of the job. There is at most one live submission of a name."""

    job: dict[str, Any]
    """The job as it will run there, with the cluster's storage and tracking."""

    package: Path
    """A zip of the code and the job file (`clusters/packaging/package.py`)."""

    command: tuple[str, ...]
    """Command that runs in the unpacked folder."""

    env: dict[str, str]
    """Environment variables of the command. Never a secret."""

    fingerprint: str = ""
    """Fingerprint of the job, stored with it on the cluster."""

    code_digest: str = ""
    """sha256 of the package."""


@dataclass(frozen=True)
class SubmissionStatus:
    """Status of a submitted job."""

    name: str
    cluster: str
    state: SubmissionState
    id: str
    """Ray submission id or Slurm job id."""

    submitted_at: float | None = None
    """Seconds since the epoch."""

    began_at: float | None = None
    ended_at: float | None = None

    exit_code: int | None = None
    """Exit code of the job, once it has ended."""

    message: str = ""
    """Why it is queued or how it ended, for people."""

    links: dict[str, str] | None = None
    """URLs by name: dashboard, mlflow."""

    job: dict[str, Any] | None = None
    """The job as it was submitted, if the backend stores it."""

    code: str = ""
    """sha256 of its package, if the backend stores it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`; without the job."""
        data = asdict(self)
        del data["job"]
        return data


class Backend(Protocol):
    """One cluster. If a name was submitted several times, methods refer to the last submission.

    All methods raise RequestError if the cluster does not answer, refuses the token, or has no
    submission of the name.
    """

    def submit(self, submission: Submission) -> SubmissionStatus:
        """Submit it. Raises RequestError if a live submission has the name."""

    def list_submissions(self) -> list[SubmissionStatus]:
        """List the last submission of every name, newest first."""

    def status(self, name: str) -> SubmissionStatus:
        """Status of the last submission of a name."""

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield its output in pieces; with `follow`, until it ends."""

    def stop(self, name: str) -> None:
        """Ask for a clean stop with a checkpoint, and wait until it has ended."""
