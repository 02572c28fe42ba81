"""What every rank runs: resume, then feed -> step -> record -> save, until the last step."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.data.feed import open_feed
from orchestrator.data.ledger import Ledger
from orchestrator.data.prepare import Prepared
from orchestrator.errors import OrchestratorError
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob
from orchestrator.plan import BatchPlan
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef
from orchestrator.training.board import Board
from orchestrator.training.checkpoint import Checkpoints
from orchestrator.training.engine import Engine
from orchestrator.training.group import Group
from orchestrator.training.profile import StepProfile
from orchestrator.training.recorder import Recorder


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


def train(assignment: Assignment, group: Group) -> None:
    """Train to the last step. Errors that no restart can mend are posted on the board.

    Raises:
        OrchestratorError: a mistake in the job or the data.
    """
    board = assignment.board
    attempt = board.begin_attempt() if group.leads else 0
    if group.exchange is not None:
        attempt = group.exchange(attempt)
    try:
        _train(assignment, group, attempt)
    except OrchestratorError as error:
        board.fail(error)
        raise


def _train(assignment: Assignment, group: Group, attempt: int) -> None:
    job, folder = assignment.job, assignment.folder
    torch.set_num_threads(group.cores)
    batch = BatchPlan.of(job.scale, group.world)
    engine = Engine(build_objective(job), job, batch, group.device)
    checkpoints = Checkpoints(folder.sub("checkpoints"), group.rank, group.world, job.checkpoint)
    resume(engine, checkpoints, assignment.board, group)
    start = engine.step

    with ExitStack() as stack:
        threads = job.data.decode_threads or group.cores
        feed = open_feed(
            job,
            assignment.prepared,
            batch,
            rank=group.rank,
            start_step=start,
            threads=threads,
            exchange=group.exchange,
        )
        stack.callback(feed.close)
        ledger = Ledger(
            folder.sub("ledger"), group.rank, attempt=f"{assignment.launch:04d}-{attempt:04d}"
        )
        recorder = Recorder(
            job, assignment.tracking, engine, group, start, assignment.board, checkpoints
        )
        stack.callback(recorder.close)
        profile = stack.enter_context(StepProfile(folder, assignment.profile and group.leads))

        for data in feed:
            result = engine.train_step(data.micro)
            for micro in data.micro:
                ledger.enter(data.step, micro)
            if engine.step == start + 1 and group.leads:
                assignment.board.first_step(time.time())
            recorder.step(data, result)
            profile.step(data, result)
            if engine.step % job.checkpoint.every == 0 or engine.step == job.optim.steps:
                ledger.flush()
                state = {
                    **assignment.state,
                    "step": engine.step,
                    "position": engine.step * job.scale.global_batch,
                }
                checkpoints.save(engine.snapshot(), state, recorder.health())
                recorder.checkpoint()
        ledger.flush()
        checkpoints.wait()
        recorder.checkpoint()
    if group.leads:
        newest = checkpoints.newest()
        phases = profile.per_step()
        assignment.board.finish({"checkpoint": newest, "phases": phases, **recorder.summary()})


def resume(engine: Engine, checkpoints: Checkpoints, board: Board, group: Group) -> None:
    """Load the newest complete checkpoint into the engine, if there is one.

    Rank 0 chooses, so that all ranks load the same one.
    """
    name = checkpoints.newest() if group.leads else None
    if group.exchange is not None:
        name = group.exchange(name)
    if name is None:
        return
    state = checkpoints.load(name, engine)
    if group.leads:
        board.message(f"resumed at step {state['step']} from {name}")
