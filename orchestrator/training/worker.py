"""What every rank runs: resume, then feed -> step -> record -> save, until the last step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.data.auditing.clip_ledger import Ledger
from orchestrator.data.loader.data_loader import open_feed
from orchestrator.data.packing.prepare import Prepared
from orchestrator.errors import OrchestratorError
from orchestrator.estimate import BatchPlan
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.live.spool import Spool
from orchestrator.tracking.run import RunRef
from orchestrator.training.callbacks.recorder import Recorder
from orchestrator.training.checkpoints.eval_exports import Unread
from orchestrator.training.checkpoints.manager import Checkpoints
from orchestrator.training.control.coordinator import Board
from orchestrator.training.control.heartbeat import Pulse
from orchestrator.training.control.interruptions import Interruptions
from orchestrator.training.control.log_forwarding import warnings_told
from orchestrator.training.control.stall import JUDGING
from orchestrator.training.distributed import Group
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.spike_guard import Diverged
from orchestrator.training.resolve.frozen_teacher import load_teacher
from orchestrator.training.resolve.initial_model import begin_with
from orchestrator.training.run_record import refuse_overtaken
from orchestrator.training.step_profile import StepProfile
from orchestrator.unexpected import note_stage, one_line, traceback_of


@dataclass(frozen=True)
class Assignment:
    """Everything a rank needs to know; picklable, the same for all ranks."""

    job: TrainJob
    folder: Storage
    prepared: Prepared
    tracking: RunRef
    board: Board
    launch: int
    """How often a driver has begun or continued this run."""

    state: dict[str, Any]
    """What a checkpoint's state.json carries beside step and position."""

    profile: bool = False
    until: int | None = None
    """Save and stop when so many steps are done in all, before the last."""

    start: Storage | None = None
    """The model that is begun with; None: random weights."""

    between: Callable[[], None] | None = None
    """In a local run: judges the newest checkpoint, where one is due."""


class RolledBack(Exception):
    """The training diverged and begins again at its last checkpoint, once."""


def train(assignment: Assignment, group: Group) -> None:
    """Train to the last step. Errors that no restart can mend are posted on the board.

    Raises:
        OrchestratorError: a mistake in the job or the data.
        RolledBack: call it again; Ray Train does by itself.
    """
    board = assignment.board
    attempt = board.begin_attempt() if group.leads else 0
    if group.exchange is not None:
        attempt = group.exchange(attempt)
    if attempt == 0:
        return  # the driver knows why
    pulse = Pulse(board, group.rank, assignment.job.scale.timeout / 2)
    try:
        with warnings_told(board, group.rank):
            _train(assignment, group, attempt, pulse)
    except Diverged as error:
        if not group.leads:
            raise  # rank 0 says what becomes of it
        if not board.roll_back():
            error.what += "; going back to the last checkpoint did not help"
            board.fail(error)
            raise
        board.message(f"{error.where}: {error.what}; going back to the last checkpoint, once")
        raise RolledBack(str(error)) from error
    except OrchestratorError as error:
        board.fail(error)
        raise
    except Exception as error:
        note_stage(error, pulse.doing)
        reason = f"rank {group.rank}: {one_line(error)} (while {pulse.doing})"
        board.died(reason, traceback_of(error))
        raise
    finally:
        pulse.close()


def _train(assignment: Assignment, group: Group, attempt: int, pulse: Pulse) -> None:
    job, folder, board = assignment.job, assignment.folder, assignment.board
    torch.set_num_threads(job.scale.threads(group.cores))
    batch = BatchPlan.of(job.scale, group.world)
    checkpoints = Checkpoints(
        folder.sub("checkpoints"),
        group.rank,
        group.world,
        job.checkpoint,
        fence=lambda: refuse_overtaken(folder, assignment.launch),
        held=Unread(job, folder),
    )
    objective = build_objective(job)
    if group.leads and assignment.start is not None and checkpoints.newest() is None:
        begin_with(objective, assignment.start)  # the engine gives it to all ranks
        board.message(f"begins with the weights of {job.model.start}")
    engine = Engine(objective, job, batch, group.device, load_teacher(job, folder))
    resume(engine, checkpoints, board, group)
    start = engine.step
    if group.leads:
        board.begins_at(start)
    interruptions = Interruptions(pulse, group, board.message)

    with ExitStack() as stack:
        feed = open_feed(
            job,
            assignment.prepared,
            batch,
            rank=group.rank,
            start_step=start,
            threads=job.data.decode_threads or group.cores,
            exchange=group.exchange,
        )
        stack.callback(feed.close)
        name = f"{assignment.launch:04d}-{attempt:04d}"
        ledger = Ledger(folder.sub("ledger"), group.rank, attempt=name)
        spool = Spool(folder.sub("spool"), f"{name}-{group.rank:05d}")
        recorder = Recorder(
            job, assignment.tracking, engine, group, start, board, checkpoints, spool
        )
        stack.callback(recorder.close)
        profile = stack.enter_context(StepProfile(folder, assignment.profile and group.leads))

        pulse.at(start, "data")
        for data in feed:
            pulse.at(engine.step, "step")
            result = engine.train_step(data.micro, interruptions.word())
            for micro in data.micro:
                ledger.enter(data.step, micro)
            if engine.step == start + 1 and group.leads:
                board.first_step(time.time())
            recorder.step(data, result)
            profile.step(data, result)
            if engine.step == job.optim.steps:
                _refuse_blown_up(recorder, group, engine)
            turn = interruptions.turn(result.word)
            if engine.step == assignment.until:
                turn = "stop"
            # While steps are skipped the state is that of the checkpoint before: the way back.
            due = job.saved_after(engine.step) and not engine.guard.skipped
            if due or turn != "go on" or engine.step == job.optim.steps:
                pulse.at(engine.step, "saving")
                began = time.perf_counter()
                state = {
                    **assignment.state,
                    "step": engine.step,
                    "position": engine.step * job.scale.global_batch,
                    "recent_losses": engine.guard.state(),
                    "row": recorder.summary()["metrics"],
                }
                checkpoints.save(
                    engine.snapshot(),
                    state,
                    recorder.health(),
                    wait=turn != "go on",
                    first=[ledger.sealed(), recorder.sealed()],
                )
                recorder.checkpoint()
                recorder.meter.add_saving(time.perf_counter() - began)
            if turn == "stop":
                break
            if assignment.between is not None and due and engine.step < job.optim.steps:
                pulse.at(engine.step, JUDGING)
                checkpoints.wait()
                assignment.between()
            pulse.at(engine.step, "data")
        pulse.at(engine.step, "saving")
        checkpoints.wait()
        recorder.checkpoint()
    if not group.leads:
        return
    if engine.step < job.optim.steps:
        board.stopped(engine.step)
        return
    newest = checkpoints.newest()
    assert newest is not None
    summary = recorder.summary()
    if not summary["metrics"]:  # nothing was left to train: an earlier start had done it all
        summary["metrics"] = checkpoints.row(newest)
    board.finish({"checkpoint": newest, "phases": profile.per_step(), **summary})


def _refuse_blown_up(recorder: Recorder, group: Group, engine: Engine) -> None:
    """After the last step: a model whose features are not finite is no result.

    Raises:
        Diverged: on all ranks at once.
    """
    blown_up = recorder.blown_up()
    if group.exchange is not None:
        blown_up = group.exchange(blown_up)
    if blown_up:
        raise Diverged(
            "the features of the last step are not finite",
            where=f"step {engine.step}",
            mend="lower optim.lr, set optim.clip, or train in fp32; what is saved stands, and"
            " --fresh begins anew",
        )


def resume(engine: Engine, checkpoints: Checkpoints, board: Board, group: Group) -> None:
    """Load the newest complete checkpoint into the engine, if there is one.

    Rank 0 chooses, so that all ranks load the same one, and removes what is torn.
    """
    name = None
    if group.leads:
        for torn in checkpoints.remove_torn():
            board.message(f"removed {torn}: its writing had not been finished")
        name = checkpoints.newest()
    if group.exchange is not None:
        name = group.exchange(name)
    if name is None:
        return
    state = checkpoints.load(name, engine)
    engine.guard.remember(state.get("recent_losses", []))
    if group.leads:
        board.message(f"resumed at step {state['step']} from {name}, on {group.world} worker(s)")
