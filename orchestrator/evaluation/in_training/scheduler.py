"""Evaluation while training goes on: what is due, whose turn it is, what MLflow and people hear.

The driver's part of a train job's `evaluate`. It looks into the run's storage for committed
checkpoints, has a model cut from each that is due, so that retention may drop it, and has one
model at a time judged (`places.py`). What fails is told and written down; training never waits.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from orchestrator.errors import JobFailed, RequestError
from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.in_training.executors import (
    EvaluationExecutor,
    EvaluationFailed,
    InProcessExecutor,
    RayExecutor,
    TrainingStopped,
)
from orchestrator.evaluation.in_training.outcomes import (
    EvaluationOutcome,
    EvaluationOutcomes,
    OutcomeState,
)
from orchestrator.evaluation.in_training.queue import EvaluationQueue, PendingEvaluation
from orchestrator.evaluation.measures.surprise import needs_actions_error
from orchestrator.evaluation.suite.driver import EvaluationResult
from orchestrator.evaluation.suite.measure import protocol_of
from orchestrator.jepa.model_files import ModelConfig, WorldModel, randomly_initialized_model
from orchestrator.job import (
    ConvEncoderConfig,
    EvaluateJob,
    PCAEncoderConfig,
    TrainJob,
    ViTConfig,
)
from orchestrator.job.config.train import EVAL_METRIC_PREFIX
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import REPORT_FILE, SCORES_FILE, SUMMARY_FILE
from orchestrator.tracking.results.physics import physics_metrics
from orchestrator.tracking.run import RunRef
from orchestrator.training.checkpoints.eval_exports import is_exported
from orchestrator.training.checkpoints.manager import (
    COMPLETE_FILE,
    checkpoint_name,
    checkpoint_step,
)
from orchestrator.training.run_record import check_not_taken_over

POLL_INTERVAL_S, LINK_INTERVAL_S = 2.0, 30.0
MAX_FAILED_POLLS_AFTER_TRAINING = 5
"""Looks in a row that may fail once the training is over; then the rest is for the next launch."""


def check_evaluations(job: TrainJob) -> None:
    """Refuse before a start what could not be judged at its first checkpoint.

    Raises:
        RequestError: suite or surprise do not fit the model that the job trains.
    """
    if not job.evaluate:
        return
    if job.data.actions is not None:
        raise needs_actions_error("evaluate")
    model = untrained_model(job)
    for i, one in enumerate(job.evaluate):
        for key in ("benchmark", "probe", "planning"):
            if getattr(one.job, key) is not None:
                raise RequestError(
                    f"a {key} is not looked at while training goes on",
                    where=f"evaluate.{i}.job: {key}",
                    hint="show a suite here, and run the other when the model is registered",
                )
        try:
            check_suite_fits(one.job, model)
        except RequestError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            raise RequestError(what, where=f"evaluate.{i}.job", hint=error.hint) from None


def check_suite_fits(job: EvaluateJob, model: Evaluable) -> None:
    """Refuse a suite that cannot be shown to a model of this shape.

    Raises:
        RequestError: suite or surprise do not fit it.
    """
    protocol = protocol_of(job, model)
    protocol.make_quad(job.suite.split, protocol.scenarios[0], 0)


def untrained_model(job: TrainJob) -> WorldModel:
    """The shape of the model that a job trains, without weights where the parts are built in.

    Raises:
        RequestError: it acts, and no suite says what is done.
    """
    if job.data.actions is not None:
        raise needs_actions_error("model")
    config = ModelConfig.from_job(job)
    # A user's own encoder may need real memory to be made.
    with torch.device(
        "meta"
        if isinstance(job.model.encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)
        else "cpu"
    ):
        return randomly_initialized_model(config, 0)


class EvaluationScheduler:
    """The evaluations of one launch of a training."""

    def __init__(
        self,
        job: TrainJob,
        folder: Storage,
        tracking: RunRef,
        progress: Progress,
        launch: int,
        workers_cpus: float | None,
    ) -> None:
        """`workers_cpus`: cores that the workers reserve together; None for a local run."""
        self.job, self.folder, self.tracking, self.progress = job, folder, tracking, progress
        self._launch_number, self._jobs = launch, {one.job.name: one.job for one in job.evaluate}
        self._stop, self._training_done = threading.Event(), threading.Event()
        self._executor: EvaluationExecutor
        self._thread: threading.Thread | None = None
        if workers_cpus is None:
            self._executor = InProcessExecutor(self._stop)
        else:
            self._executor = RayExecutor(self._stop, workers_cpus)
            self._thread = threading.Thread(target=self._run, daemon=True, name="evaluations")
        self._queue = EvaluationQueue()
        self._results = EvaluationOutcomes(folder, list(self._jobs))
        self._started_at, self._last_linked_at = 0.0, 0.0
        self._last_reported_error, self._cpu_sharing_reported = "", False

    # -- what the training's driver calls -----------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it checkpoints are judged; left early, what goes on is given up."""
        if self._thread is not None and self._jobs:
            self._thread.start()
        try:
            yield
        finally:
            self.cancel()
            if self._thread is not None and self._thread.is_alive():
                self._thread.join(timeout=10.0)

    def evaluate_due(self) -> None:
        """In a local run: judge what is due, now."""
        try:
            self._poll()
            while not self._queue.is_idle:
                self._poll()
        except TrainingStopped:
            pass
        except Exception as error:  # a training does not end by what is told of it
            self._report_error_once(error)

    def cancel(self) -> None:
        """Give up what goes on; the next launch judges it."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether the last step was left to the next launch by `cancel`."""
        return self._stop.is_set() and self._last_step_pending

    def finish(self) -> dict[str, float]:
        """The training is over: wait for what is still to be judged. Gives the last metrics."""
        if not self._jobs:
            return {}
        self._executor.on_workers_exited()
        self._training_done.set()
        if self._thread is None:
            self.evaluate_due()
        else:
            self._wait()
        if not self._stop.is_set():
            if self._last_step_pending:
                self.progress.message("the last step is not evaluated; the same command does it")
            elif self._results.has_unsent:
                self.progress.message("MLflow lacks an evaluation; the same command sends it")
        last = [PendingEvaluation(name, self.job.optim.steps) for name in self._jobs]
        found = [result.metrics for turn in last if (result := self._results.get(turn))]
        return {key: value for metrics in found for key, value in metrics.items()}

    @property
    def _last_step_pending(self) -> bool:
        last = self.job.optim.steps
        return any(self._results.get(PendingEvaluation(name, last)) is None for name in self._jobs)

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        failed = 0
        try:
            while not self._stop.is_set():
                over = (
                    self._training_done.is_set()
                )  # before the look, which then sees the last checkpoint
                try:
                    self._poll()
                    failed = 0
                except TrainingStopped:
                    return
                except Exception as error:  # of Ray, MLflow, the storage: it may pass
                    failed += 1
                    self._report_error_once(error)
                if over and (
                    failed > MAX_FAILED_POLLS_AFTER_TRAINING or (self._queue.is_idle and not failed)
                ):
                    return
                self._stop.wait(POLL_INTERVAL_S)
        finally:
            self._executor.cancel()

    def _wait(self) -> None:
        assert self._thread is not None
        said: PendingEvaluation | None = None
        while self._thread.is_alive() and not self._stop.is_set():
            self._thread.join(timeout=0.2)
            turn = self._queue.running
            if turn is not None and turn != said:
                said = turn
                self.progress.message(
                    f"the training is done; {turn.evaluation} of step {turn.step:,} is waited for"
                )

    def _report_error_once(self, error: Exception) -> None:
        line = EvaluationFailed.from_exception(error).message
        if line != self._last_reported_error:
            self._last_reported_error = line
            self.progress.message(f"evaluations are held up, and are tried again: {line}")

    # -- one look -----------------------------------------------------------------------------

    def _poll(self) -> None:
        """Take in what has ended, notice what is due, begin what is next, tell MLflow."""
        self._collect_finished()
        while self._results.pending:  # as an earlier launch left it
            self._enqueue(self._results.pending[0])
            self._results.pending.pop(0)
        names = self.folder.subfolder("checkpoints").folders()
        standing = [name for name in names if name.startswith("step-")]
        for name in standing:
            self._enqueue_due(name)
        for turn in self._queue.waiting:
            self._export_model(turn)
        self._start_next()
        self._results.send_to_mlflow(self.tracking)
        # Workers tell MLflow of a checkpoint when they save the next, or end.
        if (
            self._training_done.is_set()
            or time.monotonic() - self._last_linked_at > LINK_INTERVAL_S
        ):
            self._last_linked_at = time.monotonic()
            self._results.link_to_logged_models(
                self.tracking, {checkpoint_step(name) for name in standing}
            )

    def _enqueue_due(self, name: str) -> None:
        step, last = checkpoint_step(name), self.job.optim.steps
        due = [
            PendingEvaluation(one.job.name, step)
            for one in self.job.evaluate
            if one.is_due(step, last)
        ]
        new = [turn for turn in due if self._queue.is_new(turn) and not self._results.get(turn)]
        if new and self.folder.exists(f"checkpoints/{name}/{COMPLETE_FILE}"):
            for turn in new:
                self._enqueue(turn)

    def _enqueue(self, turn: PendingEvaluation) -> None:
        skipped = self._queue.superseded_by(turn)
        if skipped is not None:
            self._record(skipped, "skipped", 0.0)
            self.progress.message(
                f"{skipped.evaluation} skips step {skipped.step:,}: an evaluation still goes on,"
                f" and step {turn.step:,} is there"
            )
        self._queue.enqueue(turn)
        if self._queue.running is None:
            self._export_model(turn)
            self._start_next()

    def _export_model(self, turn: PendingEvaluation) -> None:
        place = self._results.folder_of(turn)
        if is_exported(place):
            return
        name = checkpoint_name(turn.step)
        checkpoints = self.folder.subfolder("checkpoints")
        try:
            self._executor.export_model(self.job, checkpoints, name, place)
        except EvaluationFailed as failure:
            if not checkpoints.exists(f"{name}/{COMPLETE_FILE}"):
                text = "its checkpoint was dropped before it was read (checkpoint.max_bytes)"
                failure = EvaluationFailed(text, failure.traceback_text)
            self._queue.remove(turn)
            self._fail(turn, failure, 0.0)

    def _start_next(self) -> None:
        turn = self._queue.start_next()
        if turn is not None:
            self._started_at = time.monotonic()
            model = f"{self.job.name}, step {turn.step:,}"
            job = self._jobs[turn.evaluation].model_copy(update={"model": model})
            self._executor.start(job, self._results.folder_of(turn))

    def _report_cpu_sharing(self, cpus: float) -> None:
        if self._executor.shares_worker_cpus and not self._cpu_sharing_reported:
            self._cpu_sharing_reported = True
            self.progress.message(
                f"evaluations find no {cpus:g} free cores beside the workers: with one thread, and"
                " at the lowest priority, they share theirs"
            )

    def _collect_finished(self) -> None:
        turn = self._queue.running
        if turn is None:
            return
        try:
            found = self._executor.poll()
            self._report_cpu_sharing(self._jobs[turn.evaluation].cpus)
        except EvaluationFailed as failure:
            self._queue.mark_done()
            self._fail(turn, failure, time.monotonic() - self._started_at)
            return
        if found is not None:
            self._queue.mark_done()
            self._succeed(turn, found, time.monotonic() - self._started_at)

    def _succeed(self, turn: PendingEvaluation, found: EvaluationResult, seconds: float) -> None:
        files = {
            REPORT_FILE: found.report_html,
            SUMMARY_FILE: json.dumps(found.summary, indent=2),
            SCORES_FILE: json.dumps(found.scores),
        }
        prefix = f"{EVAL_METRIC_PREFIX}{turn.evaluation}/"
        metrics = {f"{prefix}{key}": value for key, value in physics_metrics(found.summary).items()}
        self._record(turn, "done", seconds, metrics=metrics, files=files)
        quad, pair = found.summary["overall"]["quad"], found.summary["overall"]["pair"]
        self.progress.message(
            f"{turn.evaluation} of step {turn.step:,}: quads right {_percent(quad)},"
            f" pairs {_percent(pair)}, in {seconds:.0f} s"
        )

    def _fail(self, turn: PendingEvaluation, failure: EvaluationFailed, seconds: float) -> None:
        self._record(turn, "failed", seconds, error=failure.traceback_text)
        self.progress.message(
            f"{turn.evaluation} of step {turn.step:,} failed, training goes on: {failure.message}"
        )

    def _record(
        self,
        turn: PendingEvaluation,
        state: OutcomeState,
        seconds: float,
        *,
        metrics: dict[str, float] | None = None,
        error: str = "",
        files: dict[str, str] | None = None,
    ) -> None:
        try:
            check_not_taken_over(self.folder, self._launch_number)
        except JobFailed as overtaken:  # the other driver judges, and the workers say so
            raise TrainingStopped from overtaken
        if metrics is None:
            count = self._results.count(turn.evaluation, state) + 1
            metrics = {f"{EVAL_METRIC_PREFIX}{turn.evaluation}/{state}": float(count)}
        else:
            metrics[f"{EVAL_METRIC_PREFIX}{turn.evaluation}/seconds"] = seconds
        result = EvaluationOutcome(state, int(time.time() * 1000), seconds, metrics, error)
        self._results.write(turn, result, files or {})


def _percent(found: dict[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.1f}% [{low:.0f}, {high:.0f}]"
