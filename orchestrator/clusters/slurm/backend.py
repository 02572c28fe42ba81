"""Backend of Slurm clusters: a job is an allocation in which a Ray cluster is started for it."""

from __future__ import annotations

import codecs
import getpass
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cluster_profile import Slurm
from orchestrator.clusters.backend import LIVE_STATES, Submission, SubmissionState, SubmissionStatus
from orchestrator.clusters.render.sbatch import submitted_script
from orchestrator.clusters.slurm import commands as slurmcalls
from orchestrator.clusters.slurm.commands import QueueEntry
from orchestrator.clusters.slurm.submission_dir import (
    JobTimes,
    SubmissionRecord,
    forget,
    latest_submission,
    new_submission_dir,
    read_times,
    request_stop,
    stop_requested,
    submission_lock,
    unpack,
    write_end,
    write_record,
)
from orchestrator.errors import JobFailed, RequestError, suggest

STOP_TIMEOUT_S = 660
"""Timeout of a clean stop, in seconds: the current step, its checkpoint, and Ray's shutdown."""

_POLL_S = 1.0
# Exit codes after a signal: `orchestrator run` saves a checkpoint and exits with one of these.
_STOPPED_CODES = (130, 143)
_PENDING_STATES = (
    "PENDING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
)
_RUNNING_STATES = (
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "RESIZING",
    "SIGNALING",
    "STOPPED",
)
_CANCELLED = "CANCELLED"
_LOG = "log"
# Delay until another machine sees the file that a script writes at its end.
_STATE_FILE_WAIT_S = 5.0


class SlurmBackend:
    """Each submission is a folder WORKDIR/NAME/N on shared storage, with a batch script."""

    def __init__(self, profile: Slurm) -> None:
        if not profile.workdir.is_absolute():
            raise RequestError(
                f"'{profile.workdir}' is not the same folder everywhere",
                where=f"profile '{profile.name}': workdir",
                hint="write it from the root: /shared/...",
            )
        self._profile, self._cluster = profile, profile.name

    def submit(self, submission: Submission) -> SubmissionStatus:
        """Unpack the code in the shared folder and submit its script to Slurm.

        Raises:
            RequestError: a live submission has the name, or Slurm or the folder refuses it.
        """
        names = self._profile.workdir / submission.name
        with submission_lock(names):
            last = latest_submission(names)
            if last is not None and self._statuses([last])[0].state in LIVE_STATES:
                raise RequestError(
                    f"a job '{submission.name}' was sent there and goes on",
                    where="name",
                    hint="follow or stop it (orchestrator jobs logs|stop), or choose another name",
                )
            folder = new_submission_dir(names)
            try:
                sent = self._send(folder, submission)
            except BaseException:
                forget(folder)
                raise
        return self._statuses([(folder, sent)])[0]

    def list_submissions(self) -> list[SubmissionStatus]:
        """List the last submission of every name, newest first."""
        rows = self._statuses([found for found in map(latest_submission, self._names()) if found])
        return sorted(rows, key=lambda row: -(row.submitted_at or 0.0))

    def status(self, name: str) -> SubmissionStatus:
        """Status of the last submission of a name."""
        return self._statuses([self._last(name)])[0]

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield its output; with `follow`, until it ends, across requeues."""
        folder, sent = self._last(name)
        text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        place = 0
        while True:
            # The state is read before the log, so that output up to the end is included.
            ends = not follow or self._statuses([(folder, sent)])[0].state not in LIVE_STATES
            if (folder / _LOG).exists():
                with (folder / _LOG).open("rb") as file:
                    file.seek(place)
                    piece = file.read()
                place += len(piece)
                if piece:
                    yield text.decode(piece)
            if ends:
                return
            time.sleep(_POLL_S)

    def stop(self, name: str) -> None:
        """Send SIGTERM to the script, which lets the job save; it is not requeued.

        Raises:
            JobFailed: it has not ended after a long time.
        """
        found = folder, sent = self._last(name)
        if self._statuses([found])[0].state not in LIVE_STATES:
            return
        request_stop(folder)
        told, deadline = False, time.monotonic() + STOP_TIMEOUT_S
        while (state := self._statuses([found])[0].state) in LIVE_STATES:
            if state == "queued":
                slurmcalls.cancel_pending(sent.id, self._cluster)
                told = False
            elif not told:
                slurmcalls.send_sigterm(sent.id, self._cluster)
                told = True
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"'{name}' was told to stop and has not ended after {STOP_TIMEOUT_S} s",
                    where=self._cluster,
                    hint=f"end it without a checkpoint: scancel {sent.id}",
                )
            time.sleep(_POLL_S)

    def _send(self, folder: Path, submission: Submission) -> SubmissionRecord:
        script, code = folder / "job.sbatch", folder / "code"
        text = submitted_script(
            self._profile,
            submission.name,
            submission.command,
            submission.env,
            f"orchestrator submit, job {submission.name}",
        )
        unpack(submission.package, code)
        script.write_text(text)
        job = slurmcalls.submit_script(script, code, folder / _LOG, folder, self._cluster)
        return write_record(folder, job, submission, getpass.getuser())

    def _names(self) -> list[Path]:
        workdir = self._profile.workdir
        return (
            sorted(path for path in workdir.iterdir() if path.is_dir()) if workdir.is_dir() else []
        )

    def _last(self, name: str) -> tuple[Path, SubmissionRecord]:
        found = latest_submission(self._profile.workdir / name)
        if found is not None:
            return found
        known = [path.name for path in self._names() if latest_submission(path)]
        raise RequestError(
            f"no job '{name}' was sent to cluster '{self._cluster}'",
            where="NAME",
            hint=suggest(name, known) if known else "nothing was: orchestrator submit JOB --to ...",
        )

    def _statuses(self, sent: list[tuple[Path, SubmissionRecord]]) -> list[SubmissionStatus]:
        """Statuses of submissions, with one `squeue` for all that have not recorded their end."""
        ends = [read_times(folder) for folder, _ in sent]
        open_ids = [one.id for (_, one), end in zip(sent, ends, strict=True) if end.ended is None]
        known = slurmcalls.query_jobs(open_ids, self._cluster)
        return [self._to_status(folder, one, known.get(one.id)) for folder, one in sent]

    def _to_status(
        self, folder: Path, sent: SubmissionRecord, known: QueueEntry | None
    ) -> SubmissionStatus:
        ended = read_times(folder)
        state, message = _state_and_message(ended, known)
        if state is None:
            # It ended without a record, or the record is not visible on this machine yet.
            ended = _wait_for_end(folder)
            if ended.ended is None:
                why = known.state if known else "Slurm has forgotten it"
                ended = write_end(folder, _CANCELLED if stop_requested(folder) else why)
            state, message = _state_and_message(ended, None)
        assert state is not None
        return SubmissionStatus(
            name=sent.name,
            cluster=self._cluster,
            state=state,
            id=sent.id,
            submitted_at=sent.submitted_at,
            began_at=ended.began,
            ended_at=ended.ended,
            exit_code=ended.exit_code,
            message=message,
            job=sent.job,
            code=sent.code,
        )


def _state_and_message(
    ended: JobTimes, known: QueueEntry | None
) -> tuple[SubmissionState | None, str]:
    """State and message; None if Slurm says it is over and the job recorded no end."""
    if ended.ended is not None:
        if ended.exit_code == 0:
            return "done", ""
        if ended.exit_code in _STOPPED_CODES:
            return "stopped", ""
        if ended.why == _CANCELLED:
            return "stopped", "cancelled"
        return "failed", f"ended without a word: {ended.why}" if ended.why else ""
    if known is None:
        return None, ""
    if known.state in _PENDING_STATES:
        again = "queued again; " if ended.began else ""
        return "queued", again + known.reason
    return ("running", "") if known.state in _RUNNING_STATES else (None, "")


def _wait_for_end(folder: Path) -> JobTimes:
    deadline = time.monotonic() + _STATE_FILE_WAIT_S
    while (ended := read_times(folder)).ended is None and time.monotonic() < deadline:
        time.sleep(_POLL_S / 4)
    return ended
