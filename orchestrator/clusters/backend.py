"""What every place that a job can be sent to can do: the same verbs with the same words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

SubmissionState = Literal["queued", "running", "done", "failed", "stopped"]
LIVE_STATES: tuple[SubmissionState, ...] = ("queued", "running")


@dataclass(frozen=True)
class Submission:
    """A job on its way to a cluster."""

    name: str
    """The job's, and the identity of what is sent: one live submission of a name at a time."""

    job: dict[str, Any]
    """The job as it will run there, storage and tracking being the cluster's."""

    package: Path
    """A zip of the code and the job file (`clusters/packaging/package.py`)."""

    command: tuple[str, ...]
    """What runs in the unpacked folder."""

    env: dict[str, str]
    """Variables of the command. Never a secret."""

    fingerprint: str = ""
    """The job's, for whoever looks at the cluster."""

    code_digest: str = ""
    """sha256 of the package."""


@dataclass(frozen=True)
class SubmissionStatus:
    """What is known of a job that was sent."""

    name: str
    cluster: str
    state: SubmissionState
    id: str
    """What the backend calls it: a Ray submission id, a Slurm job id."""

    submitted_at: float | None = None
    """Seconds since the epoch."""

    began_at: float | None = None
    ended_at: float | None = None

    exit_code: int | None = None
    """The job's own, once it has ended."""

    message: str = ""
    """Why it waits or how it ended, for a person."""

    links: dict[str, str] | None = None
    """Pages by name: dashboard, mlflow."""

    job: dict[str, Any] | None = None
    """The job as it was sent, where the backend remembers it."""

    code: str = ""
    """sha256 of the package it was sent with, where the backend remembers it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`; without the job."""
        data = asdict(self)
        del data["job"]
        return data


class Backend(Protocol):
    """One cluster. Names are jobs' names; of a name that was sent several times, the last counts.

    All methods raise RequestError where the cluster does not answer, refuses the token or knows no
    such name.
    """

    def submit(self, submission: Submission) -> SubmissionStatus:
        """Send it. Raises RequestError where a live submission has the name."""

    def list_submissions(self) -> list[SubmissionStatus]:
        """What was sent there, the last of every name, newest first."""

    def status(self, name: str) -> SubmissionStatus:
        """The last of a name."""

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """What it has printed, in pieces; with `follow` to its end."""

    def stop(self, name: str) -> None:
        """Ask for a clean stop with a checkpoint, and wait until it has ended."""
