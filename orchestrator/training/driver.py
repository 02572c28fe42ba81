"""The driver of a training: data, identity, MLflow run, workers, export, registration."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.packing.prepare import Prepared, prepare
from orchestrator.errors import JobFailed, OrchestratorError
from orchestrator.job import TrainJob
from orchestrator.progress import Progress
from orchestrator.ray_session import find_parts_in, python_path, ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.alerts import alert
from orchestrator.tracking.live.pending import send_waiting
from orchestrator.tracking.mlflow_errors import only_told
from orchestrator.tracking.registry import register
from orchestrator.tracking.run import RunRef, finish_run
from orchestrator.training.checkpoints.export import export_model
from orchestrator.training.control.coordinator import Board, ClusterLost, LocalBoard, News, RayBoard
from orchestrator.training.control.monitor import watching
from orchestrator.training.control.signals import stopping_cleanly
from orchestrator.training.placement import reserved_cpus, scaling_config, set_patience
from orchestrator.training.resolve.actions import know_actions
from orchestrator.training.resolve.frozen_teacher import know_teacher
from orchestrator.training.resolve.pca import know_codes
from orchestrator.training.run_record import Overtaken, RunRecord, read_record
from orchestrator.training.run_setup import begin
from orchestrator.training.worker import Assignment
from orchestrator.unexpected import one_line, stage, traceback_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training came to."""

    record: RunRecord
    tracking: RunRef
    prepared: Prepared
    first_step_at: float | None
    evaluated: dict[str, float] = field(default_factory=dict)
    """What evaluations on the way say of the last step."""


class Evaluations(Protocol):
    """Evaluates checkpoints during a training (`evaluation/in_training/scheduler.py`)."""

    def beside(self) -> AbstractContextManager[None]:
        """Within it checkpoints are judged; left early, what goes on is given up."""

    def between(self) -> None:
        """In a local run: judge what is due, now."""

    def stop(self) -> None:
        """Give up what goes on; the next launch judges it."""

    def finish(self) -> dict[str, float]:
        """Wait for what is still to be judged; gives the metrics of the last step."""

    @property
    def given_up(self) -> bool:
        """Whether the last step was left to the next launch by `stop`."""


class Gate(Protocol):
    """When workers may start, and when they shall end: the trials of a sweep have one."""

    def entered(self) -> AbstractContextManager[None]:
        """Within it the workers run.

        Raises:
            Stopped: they shall not start any more.
        """

    def closing(self) -> bool:
        """Whether the training shall be saved and ended; asked twice a second."""


class OpenGate:
    """Workers start at once, and nobody but a signal ends them."""

    def entered(self) -> AbstractContextManager[None]:
        """Nothing is waited for."""
        return nullcontext()

    def closing(self) -> bool:
        """Never."""
        return False


OpenEvaluations = Callable[[TrainJob, Storage, RunRef, Progress, int, float | None], Evaluations]


def run_train(
    job: TrainJob,
    progress: Progress,
    *,
    fresh: bool,
    local: bool,
    profile: bool,
    open_evaluations: OpenEvaluations,
    until: int | None = None,
    parent: str | None = None,
    gate: Gate | None = None,
) -> TrainResult:
    """Train `job` to its last step and register the model; continues what was begun.

    `until` pauses it when so many steps are done; `parent` is the MLflow run that it belongs to;
    `gate` says when its workers may start, and when they shall end before the last step.

    `open_evaluations` is called with the job, the run's folder, its MLflow run, the progress, the
    launch's number, and the cores that workers reserve (None in a local run).

    Raises:
        RequestError: nothing was started.
        JobFailed: the training stopped; what it had saved stays and is continued next time.
        Stopped: a signal or `until` asked for it; the state of the last step is saved.
    """
    storage = Storage(job.storage)
    job = job.model_copy(update={"storage": storage.root})
    folder = storage.sub("runs", job.name)
    with nullcontext() if local else ray_session():
        job = know_teacher(job, storage)
        with stage("preparing the data"):
            prepared = prepare(job, progress, local=local)
        begun = None if fresh else read_record(folder)
        job = know_actions(job, prepared, progress, local=local, begun=begun)
        job = know_codes(job, prepared, storage, progress, begun=begun)
        nodes = 1 if local else _nodes()
        with stage("beginning the run"):
            record, start, tracking = begin(
                job, storage, prepared, progress, fresh=fresh, nodes=nodes, parent=parent
            )
        with _closing_run(tracking, job.name, progress.message):
            cpus = None if local else 0.0 if record.outcome else reserved_cpus(job)
            evaluations = open_evaluations(job, folder, tracking, progress, record.launches, cpus)
            with evaluations.beside():
                first_step_at = None
                if record.outcome:
                    progress.message(f"'{job.name}' has been trained already; --fresh begins anew")
                else:
                    board = LocalBoard() if local else RayBoard.create()
                    assignment = replace(
                        _assign(job, folder, prepared, tracking, board, record, profile),
                        until=until,
                        start=start,
                    )
                    news = _train(assignment, board, evaluations, progress, gate or OpenGate())
                    record.outcome, first_step_at = news.outcome, news.first_step_at
                    record.save(folder)
                _hand_over(job, folder, record, tracking)
                record.save(folder)
                evaluated = _finish(evaluations, job, progress)
    return TrainResult(record, tracking, prepared, first_step_at, evaluated)


class Stopped(OrchestratorError):
    """What there was was saved and ended, as a signal asked: an end, but no error."""

    prefix = ""

    def by(self, asked: signal.Signals | None) -> Stopped:
        """With the exit code by which shells tell of a signal; 130 is Ctrl-C."""
        self.exit_code = 128 + (asked or signal.SIGINT)
        return self


@contextmanager
def _closing_run(
    tracking: RunRef, name: str, tell: Callable[[str], None] = log.warning
) -> Iterator[None]:
    """The MLflow run ends as the training ended, and whoever is to be alerted hears of it."""
    try:
        yield
    except Overtaken:
        raise  # the other driver's end is the run's
    except (KeyboardInterrupt, Stopped):
        with only_told(tell):
            finish_run(tracking, "KILLED")
        raise
    except BaseException as error:
        alert(f"{name} failed: {error}")
        with only_told(tell):
            finish_run(tracking, "FAILED")
        raise
    alert(f"{name} is done")
    finish_run(tracking, "FINISHED")


def _assign(
    job: TrainJob,
    folder: Storage,
    prepared: Prepared,
    tracking: RunRef,
    board: Board,
    record: RunRecord,
    profile: bool,
) -> Assignment:
    state = {
        "fingerprint": record.fingerprint,
        "dataset": record.dataset,
        "mlflow_run_id": tracking.run_id,
    }
    return Assignment(job, folder, prepared, tracking, board, record.launches, state, profile)


def _train(
    assignment: Assignment,
    board: LocalBoard | RayBoard,
    evaluations: Evaluations,
    progress: Progress,
    gate: Gate,
) -> News:
    job = assignment.job

    def stop() -> None:
        evaluations.stop()
        board.ask_stop()

    with (
        gate.entered(),
        stopping_cleanly(stop, progress.message) as asked,
        watching(board, progress, job, assignment.folder, gate.closing),
    ):
        if isinstance(board, LocalBoard):
            _fit_local(replace(assignment, between=evaluations.between))
        else:
            _fit_ray(assignment)
    news = board.read()
    if news.fatal is not None:
        raise news.fatal
    if news.stopped_at is not None:
        raise Stopped(
            f"stopped and saved after {news.stopped_at:,} of {job.optim.steps:,} steps",
            where=job.name,
            mend="the same command continues from there",
        ).by(asked.signal)
    return news


def _finish(evaluations: Evaluations, job: TrainJob, progress: Progress) -> dict[str, float]:
    """Wait for the last evaluations.

    Raises:
        Stopped: a signal asked for the end before.
    """
    what = "ending without the evaluation that is waited for"
    with stopping_cleanly(evaluations.stop, progress.message, what) as asked:
        evaluated = evaluations.finish()
    if evaluations.given_up:
        raise Stopped(
            "the training is done and kept; its last evaluation was given up",
            where=job.name,
            mend="the same command evaluates it",
        ).by(asked.signal)
    return evaluated


def _fit_local(assignment: Assignment) -> None:
    from orchestrator.training.distributed import local_group
    from orchestrator.training.worker import RolledBack, train

    group = local_group(assignment.job.scale.device)
    try:
        train(assignment, group)
    except RolledBack:
        train(assignment, group)


def _fit_ray(assignment: Assignment) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from orchestrator.training.torch_backend import LoopbackTorchConfig

    job, folder = assignment.job, assignment.folder
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    set_patience(job)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"assignment": assignment, "python_path": python_path()},
        torch_config=LoopbackTorchConfig(timeout_s=max(1, round(job.scale.timeout))),
        scaling_config=scaling_config(job),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=folder.at("ray"),
            storage_filesystem=folder.fs,
            # As often as it takes: the board ends a training that gets no further.
            failure_config=ray.train.FailureConfig(max_failures=-1),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _first_cause(error, assignment) from error
    except ray.exceptions.RayError as error:  # not the workers': the controller's own end
        raise ClusterLost.by(error) from error


def _worker(config: dict[str, Any]) -> None:
    """Ray Train's loop per worker."""
    find_parts_in(config["python_path"])
    from orchestrator.training.distributed import ray_group
    from orchestrator.training.worker import train

    train(config["assignment"], ray_group())


def _first_cause(error: Exception, assignment: Assignment) -> OrchestratorError:
    """The one message that explains why the workers died."""
    news = assignment.board.read()
    if news.fatal is not None:
        return news.fatal
    failures = getattr(error, "worker_failures", {})
    causes = [f"rank {rank}: {one_line(e)}" for rank, e in sorted(failures.items())]
    return JobFailed(
        f"the workers could not go on: {causes[0] if causes else one_line(error)}",
        where=assignment.folder.root,
        mend="the last checkpoint stands: the same command continues from it; --debug shows all",
        details="\n".join([traceback_of(error), *map(traceback_of, failures.values())]),
    )


def _nodes() -> int:
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def _hand_over(job: TrainJob, folder: Storage, record: RunRecord, tracking: RunRef) -> None:
    """The trained model goes into the run's folder, what MLflow still lacks to MLflow, and then the
    model into its registry, where the job names one. What was done before is not done again.

    Raises:
        NotRecorded: MLflow did not take it all; the next run of the same command goes on there.
    """
    if record.model_uri:
        send_waiting(tracking, folder.sub("spool"), job.optim.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        name = str(record.outcome["checkpoint"])
        with stage("exporting the model"):
            export_model(job, folder.sub("checkpoints"), name, out)
            for file in sorted(out.iterdir()):
                folder.write_bytes(f"model/{file.name}", file.read_bytes())
        send_waiting(tracking, folder.sub("spool"), job.optim.steps)
        record.model_uri = folder.uri("model")
        if job.track.register_as is not None:
            with stage("registering the model"):
                record.model_uri = _registered(job, record, tracking, out)


def _registered(job: TrainJob, record: RunRecord, tracking: RunRef, folder: Path) -> str:
    """The URI of a new version of the model that the job names."""
    assert job.track.register_as is not None
    version = register(
        tracking,
        folder,
        job.track.register_as,
        metrics=record.outcome["metrics"],
        tags={"run": job.name, "fingerprint": record.fingerprint, "dataset": record.dataset},
    )
    return f"models:/{job.track.register_as}/{version}"
