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
from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.in_training.executors import Beside, Ended, Failed, Here, Place
from orchestrator.evaluation.in_training.outcomes import Result, Results, State
from orchestrator.evaluation.in_training.queue import Turn, Turns
from orchestrator.evaluation.measures.surprise import untold
from orchestrator.evaluation.suite.driver import Judged
from orchestrator.evaluation.suite.measure import protocol_of
from orchestrator.jepa.model_files import ModelConfig, WorldModel, random_model
from orchestrator.job import Codes, Conv, Encoder, EvaluateJob, TrainJob, job_dict
from orchestrator.job.config.train import EVALUATED
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import REPORT, SCORES, VERDICT
from orchestrator.tracking.results.physics import headline
from orchestrator.tracking.run import RunRef
from orchestrator.training.checkpoints.eval_exports import is_cut
from orchestrator.training.checkpoints.manager import COMPLETE, folder_name, step_of
from orchestrator.training.run_record import refuse_overtaken

LOOK_EVERY_S, LINK_EVERY_S = 2.0, 30.0
LAST_TRIES = 5
"""Looks in a row that may fail once the training is over; then the rest is for the next launch."""


def check_evaluations(job: TrainJob) -> None:
    """Refuse before a start what could not be judged at its first checkpoint.

    Raises:
        RequestError: suite or surprise do not fit the model that the job trains.
    """
    if not job.evaluate:
        return
    if job.data.act is not None:
        raise untold("evaluate")
    model = untrained(job)
    for i, one in enumerate(job.evaluate):
        for key in ("benchmark", "probe", "planning"):
            if getattr(one.job, key) is not None:
                raise RequestError(
                    f"a {key} is not looked at while training goes on",
                    where=f"evaluate.{i}.job: {key}",
                    mend="show a suite here, and run the other when the model is registered",
                )
        try:
            check_judging(one.job, model)
        except RequestError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            raise RequestError(what, where=f"evaluate.{i}.job", mend=error.mend) from None


def check_judging(job: EvaluateJob, model: Judgeable) -> None:
    """Refuse a suite that cannot be shown to a model of this shape.

    Raises:
        RequestError: suite or surprise do not fit it.
    """
    protocol = protocol_of(job, model)
    protocol.quad(job.suite.split, protocol.scenarios[0], 0)


def untrained(job: TrainJob) -> WorldModel:
    """The shape of the model that a job trains, without weights where the parts are built in.

    Raises:
        RequestError: it acts, and no suite says what is done.
    """
    if job.data.act is not None:
        raise untold("model")
    config = ModelConfig(
        model=job.model,
        size=job.data.size,
        frames=job.data.frames,
        objective=job.objective.kind,
        job=job_dict(job),
        extra={},
    )
    # A user's own encoder may need real memory to be made.
    with torch.device("meta" if isinstance(job.model.encoder, Encoder | Conv | Codes) else "cpu"):
        return random_model(config, 0)


class Evaluations:
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
        self._launch, self._jobs = launch, {one.job.name: one.job for one in job.evaluate}
        self._stop, self._over = threading.Event(), threading.Event()
        self._place: Place
        self._thread: threading.Thread | None = None
        if workers_cpus is None:
            self._place = Here(self._stop)
        else:
            self._place = Beside(self._stop, workers_cpus)
            self._thread = threading.Thread(target=self._run, daemon=True, name="evaluations")
        self._turns = Turns()
        self._results = Results(folder, list(self._jobs))
        self._began, self._linked = 0.0, 0.0
        self._said, self._shares = "", False

    # -- what the training's driver calls -----------------------------------------------------

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Within it checkpoints are judged; left early, what goes on is given up."""
        if self._thread is not None and self._jobs:
            self._thread.start()
        try:
            yield
        finally:
            self.stop()
            if self._thread is not None and self._thread.is_alive():
                self._thread.join(timeout=10.0)

    def between(self) -> None:
        """In a local run: judge what is due, now."""
        try:
            self._look()
            while not self._turns.idle:
                self._look()
        except Ended:
            pass
        except Exception as error:  # a training does not end by what is told of it
            self._say_once(error)

    def stop(self) -> None:
        """Give up what goes on; the next launch judges it."""
        self._stop.set()

    @property
    def given_up(self) -> bool:
        """Whether the last step was left to the next launch by `stop`."""
        return self._stop.is_set() and self._unjudged

    def finish(self) -> dict[str, float]:
        """The training is over: wait for what is still to be judged. Gives the last metrics."""
        if not self._jobs:
            return {}
        self._place.workers_are_gone()
        self._over.set()
        if self._thread is None:
            self.between()
        else:
            self._wait()
        if not self._stop.is_set():
            if self._unjudged:
                self.progress.message("the last step is not evaluated; the same command does it")
            elif self._results.untold:
                self.progress.message("MLflow lacks an evaluation; the same command sends it")
        last = [Turn(name, self.job.optim.steps) for name in self._jobs]
        found = [result.metrics for turn in last if (result := self._results.of(turn))]
        return {key: value for metrics in found for key, value in metrics.items()}

    @property
    def _unjudged(self) -> bool:
        last = self.job.optim.steps
        return any(self._results.of(Turn(name, last)) is None for name in self._jobs)

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        failed = 0
        try:
            while not self._stop.is_set():
                over = self._over.is_set()  # before the look, which then sees the last checkpoint
                try:
                    self._look()
                    failed = 0
                except Ended:
                    return
                except Exception as error:  # of Ray, MLflow, the storage: it may pass
                    failed += 1
                    self._say_once(error)
                if over and (failed > LAST_TRIES or (self._turns.idle and not failed)):
                    return
                self._stop.wait(LOOK_EVERY_S)
        finally:
            self._place.abandon()

    def _wait(self) -> None:
        assert self._thread is not None
        said: Turn | None = None
        while self._thread.is_alive() and not self._stop.is_set():
            self._thread.join(timeout=0.2)
            turn = self._turns.running
            if turn is not None and turn != said:
                said = turn
                self.progress.message(
                    f"the training is done; {turn.evaluation} of step {turn.step:,} is waited for"
                )

    def _say_once(self, error: Exception) -> None:
        line = Failed.by(error).line
        if line != self._said:
            self._said = line
            self.progress.message(f"evaluations are held up, and are tried again: {line}")

    # -- one look -----------------------------------------------------------------------------

    def _look(self) -> None:
        """Take in what has ended, notice what is due, begin what is next, tell MLflow."""
        self._take_in()
        while self._results.pending:  # as an earlier launch left it
            self._offer(self._results.pending[0])
            self._results.pending.pop(0)
        names = self.folder.sub("checkpoints").folders()
        standing = [name for name in names if name.startswith("step-")]
        for name in standing:
            self._notice(name)
        for turn in self._turns.waiting:
            self._cut(turn)
        self._begin()
        self._results.tell(self.tracking)
        # Workers tell MLflow of a checkpoint when they save the next, or end.
        if self._over.is_set() or time.monotonic() - self._linked > LINK_EVERY_S:
            self._linked = time.monotonic()
            self._results.link(self.tracking, {step_of(name) for name in standing})

    def _notice(self, name: str) -> None:
        step, last = step_of(name), self.job.optim.steps
        due = [Turn(one.job.name, step) for one in self.job.evaluate if one.due_after(step, last)]
        new = [turn for turn in due if self._turns.is_new(turn) and not self._results.of(turn)]
        if new and self.folder.exists(f"checkpoints/{name}/{COMPLETE}"):
            for turn in new:
                self._offer(turn)

    def _offer(self, turn: Turn) -> None:
        skipped = self._turns.skipped_for(turn)
        if skipped is not None:
            self._conclude(skipped, "skipped", 0.0)
            self.progress.message(
                f"{skipped.evaluation} skips step {skipped.step:,}: an evaluation still goes on,"
                f" and step {turn.step:,} is there"
            )
        self._turns.offer(turn)
        if self._turns.running is None:
            self._cut(turn)
            self._begin()

    def _cut(self, turn: Turn) -> None:
        place = self._results.place(turn)
        if is_cut(place):
            return
        name = folder_name(turn.step)
        checkpoints = self.folder.sub("checkpoints")
        try:
            self._place.cut(self.job, checkpoints, name, place)
        except Failed as failure:
            if not checkpoints.exists(f"{name}/{COMPLETE}"):
                text = "its checkpoint was dropped before it was read (checkpoint.max_bytes)"
                failure = Failed(text, failure.text)
            self._turns.withdraw(turn)
            self._fail(turn, failure, 0.0)

    def _begin(self) -> None:
        turn = self._turns.start()
        if turn is not None:
            self._began = time.monotonic()
            model = f"{self.job.name}, step {turn.step:,}"
            job = self._jobs[turn.evaluation].model_copy(update={"model": model})
            self._place.begin(job, self._results.place(turn))

    def _say_that_it_shares(self, cpus: float) -> None:
        if self._place.shares and not self._shares:
            self._shares = True
            self.progress.message(
                f"evaluations find no {cpus:g} free cores beside the workers: with one thread, and"
                " at the lowest priority, they share theirs"
            )

    def _take_in(self) -> None:
        turn = self._turns.running
        if turn is None:
            return
        try:
            found = self._place.outcome()
            self._say_that_it_shares(self._jobs[turn.evaluation].cpus)
        except Failed as failure:
            self._turns.done()
            self._fail(turn, failure, time.monotonic() - self._began)
            return
        if found is not None:
            self._turns.done()
            self._succeed(turn, found, time.monotonic() - self._began)

    def _succeed(self, turn: Turn, found: Judged, seconds: float) -> None:
        files = {
            REPORT: found.page,
            VERDICT: json.dumps(found.verdict, indent=2),
            SCORES: json.dumps(found.scores),
        }
        prefix = f"{EVALUATED}{turn.evaluation}/"
        metrics = {f"{prefix}{key}": value for key, value in headline(found.verdict).items()}
        self._conclude(turn, "done", seconds, metrics=metrics, files=files)
        quad, pair = found.verdict["overall"]["quad"], found.verdict["overall"]["pair"]
        self.progress.message(
            f"{turn.evaluation} of step {turn.step:,}: quads right {_percent(quad)},"
            f" pairs {_percent(pair)}, in {seconds:.0f} s"
        )

    def _fail(self, turn: Turn, failure: Failed, seconds: float) -> None:
        self._conclude(turn, "failed", seconds, error=failure.text)
        self.progress.message(
            f"{turn.evaluation} of step {turn.step:,} failed, training goes on: {failure.line}"
        )

    def _conclude(
        self,
        turn: Turn,
        state: State,
        seconds: float,
        *,
        metrics: dict[str, float] | None = None,
        error: str = "",
        files: dict[str, str] | None = None,
    ) -> None:
        try:
            refuse_overtaken(self.folder, self._launch)
        except JobFailed as overtaken:  # the other driver judges, and the workers say so
            raise Ended from overtaken
        if metrics is None:
            count = self._results.count(turn.evaluation, state) + 1
            metrics = {f"{EVALUATED}{turn.evaluation}/{state}": float(count)}
        else:
            metrics[f"{EVALUATED}{turn.evaluation}/seconds"] = seconds
        result = Result(state, int(time.time() * 1000), seconds, metrics, error)
        self._results.write(turn, result, files or {})


def _percent(found: dict[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.1f}% [{low:.0f}, {high:.0f}]"
