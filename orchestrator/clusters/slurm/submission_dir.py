"""What was sent to a cluster without a job server: folders WORKDIR/NAME/N on shared storage.

NAME/N/code/        the unpacked package
NAME/N/sent.json    the job, and what the cluster calls it
NAME/N/log          what it prints
NAME/N/state        when it began and ended and its exit code, by itself
NAME/N/stop         there once a person has asked for its end
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.clusters.backend import Submission
from orchestrator.errors import RequestError

_RECORD_FILE = "sent.json"


@dataclass(frozen=True)
class SubmissionRecord:
    """The stored record of a submission."""

    id: str
    """The cluster's id of the job."""

    name: str
    submitted_at: float
    who: str
    fingerprint: str
    code: str
    """sha256 of the package."""

    job: dict[str, Any]


@dataclass(frozen=True)
class JobTimes:
    """Start, end and exit code that a job has recorded; None if not yet."""

    began: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    why: str = ""
    """How it ended, if the job itself could not record it."""


@contextmanager
def submission_lock(names: Path) -> Iterator[None]:
    """Lock a name: no other process submits a job of this name inside the context.

    Raises:
        RequestError: somebody does, or the folder cannot be written.
    """
    try:
        names.mkdir(parents=True, exist_ok=True)
        lock = os.open(names / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(names, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"a job '{names.name}' is being sent at this moment",
                where="name",
                hint="wait for it, or choose another name",
            ) from None
        yield
    finally:
        os.close(lock)


def new_submission_dir(names: Path) -> Path:
    """Create the folder of the next submission number.

    Raises:
        RequestError: it cannot be made.
    """
    made = names / str(1 + max((number for number, _ in submission_dirs(names)), default=0))
    try:
        made.mkdir()
    except OSError as error:
        raise _unwritable(made, error) from None
    return made


def submission_dirs(names: Path) -> list[tuple[int, Path]]:
    """Submission folders of a name: number to folder."""
    if not names.is_dir():
        return []
    return sorted(
        (int(path.name), path) for path in names.iterdir() if path.name.isdigit() and path.is_dir()
    )


def latest_submission(names: Path) -> tuple[Path, SubmissionRecord] | None:
    """The last submission of a name, and its folder."""
    for _, folder in reversed(submission_dirs(names)):
        if (folder / _RECORD_FILE).exists():
            return folder, SubmissionRecord(**json.loads((folder / _RECORD_FILE).read_text()))
    return None


def write_record(folder: Path, job: str, submission: Submission, who: str) -> SubmissionRecord:
    """Write the record of a submission."""
    sent = SubmissionRecord(
        id=job,
        name=submission.name,
        submitted_at=time.time(),
        who=who,
        fingerprint=submission.fingerprint,
        code=submission.code_digest,
        job=submission.job,
    )
    _write(folder / _RECORD_FILE, json.dumps(asdict(sent), indent=2) + "\n")
    return sent


def unpack(package: Path, folder: Path) -> None:
    """Unpack a package, with executable bits.

    Raises:
        RequestError: the folder cannot be written, or a member's path leads out of it.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            for member in archive.infolist():
                target = folder / member.filename
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise RequestError(f"'{member.filename}' leads out of the package")
                archive.extract(member, folder)
                mode = member.external_attr >> 16
                if mode & 0o100 and target.is_file():
                    target.chmod(target.stat().st_mode | 0o111)
    except OSError as error:
        raise _unwritable(folder, error) from None


def forget(folder: Path) -> None:
    """Remove a folder whose submission failed."""
    shutil.rmtree(folder, ignore_errors=True)


def read_times(folder: Path) -> JobTimes:
    """Read what the job has recorded about itself."""
    try:
        lines = (folder / "state").read_text().splitlines()
    except FileNotFoundError:
        return JobTimes()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return JobTimes(
        began=float(found["began"]) if found.get("began") else None,
        ended=float(found["ended"]) if found.get("ended") else None,
        exit_code=int(found["code"]) if found.get("code") else None,
        why=found.get("why", ""),
    )


def write_end(folder: Path, why: str) -> JobTimes:
    """Record the end of a job that could not do so itself, and why it ended."""
    began = read_times(folder).began
    ended = JobTimes(began=began, ended=time.time(), why=why)
    _write(folder / "state", f"began={began or ''}\nended={ended.ended}\ncode=\nwhy={why}\n")
    return ended


def request_stop(folder: Path) -> None:
    """Request that the job is not requeued, whatever ends it."""
    try:
        (folder / "stop").touch()
    except OSError as error:
        raise _unwritable(folder, error) from None


def stop_requested(folder: Path) -> bool:
    """Whether a stop was requested."""
    return (folder / "stop").exists()


def _write(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)


def _unwritable(folder: Path, error: OSError) -> RequestError:
    return RequestError(
        f"cannot be written: {(error.strerror or str(error)).lower()}",
        where=str(folder),
        hint="the profile's workdir has to be a folder that this machine and every node can write",
    )
