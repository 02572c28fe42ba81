"""What every rank runs: resume, then feed -> step -> record -> save, until the last step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter
from orchestrator.data.loader.data_loader import open_data_loader
from orchestrator.data.packing.prepare import PreparedData
from orchestrator.errors import OrchestratorError
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.live.spool import Spool
from orchestrator.tracking.run import RunRef
from orchestrator.training.callbacks.recorder import Recorder
from orchestrator.training.checkpoints.eval_exports import PendingEvaluationGuard
from orchestrator.training.checkpoints.manager import CheckpointManager
from orchestrator.training.control.coordinator import RunCoordinator
from orchestrator.training.control.heartbeat import HeartbeatThread
from orchestrator.training.control.interruptions import Interruptions
from orchestrator.training.control.log_forwarding import forward_warnings
from orchestrator.training.control.stall import EVALUATING
from orchestrator.training.distributed import DistributedContext
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.spike_guard import TrainingDiverged
from orchestrator.training.resolve.frozen_teacher import load_teacher
from orchestrator.training.resolve.initial_model import load_initial_weights
from orchestrator.training.run_record import check_not_taken_over
from orchestrator.training.step_profile import StepProfiler
from orchestrator.unexpected import add_error_context, format_traceback, one_line


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a rank needs to know; picklable, the same for all ranks."""

    job: TrainJob
    run_folder: Storage
    prepared: PreparedData
    tracking: RunRef
    coordinator: RunCoordinator
    launch_number: int
    """How often a driver has begun or continued this run."""

    checkpoint_state: dict[str, Any]
    """What a checkpoint's state.json carries beside step and position."""

    profile: bool = False
    stop_after_step: int | None = None
    """Save and stop when so many steps are done in all, before the last."""

    initial_model: Storage | None = None
    """The model that is begun with; None: random weights."""

    evaluate_due: Callable[[], None] | None = None
    """In a local run: judges the newest checkpoint, where one is due."""


class RollbackRequested(Exception):
    """The training diverged and begins again at its last checkpoint, once."""


def run_worker(assignment: WorkerConfig, group: DistributedContext) -> None:
    """Train to the last step. Errors that no restart can mend are posted on the board.

    Raises:
        OrchestratorError: a mistake in the job or the data.
        RollbackRequested: call it again; Ray Train does by itself.
    """
    board = assignment.coordinator
    attempt = board.start_attempt() if group.is_main else 0
    if group.broadcast is not None:
        attempt = group.broadcast(attempt)
    if attempt == 0:
        return  # the driver knows why
    pulse = HeartbeatThread(board, group.rank, assignment.job.scale.timeout / 2)
    try:
        with forward_warnings(board, group.rank):
            _train_loop(assignment, group, attempt, pulse)
    except TrainingDiverged as error:
        if not group.is_main:
            raise  # rank 0 says what becomes of it
        if not board.request_rollback():
            error.what += "; going back to the last checkpoint did not help"
            board.report_fatal(error)
            raise
        board.notify(f"{error.where}: {error.what}; going back to the last checkpoint, once")
        raise RollbackRequested(str(error)) from error
    except OrchestratorError as error:
        board.report_fatal(error)
        raise
    except Exception as error:
        add_error_context(error, pulse.phase_text)
        reason = f"rank {group.rank}: {one_line(error)} (while {pulse.phase_text})"
        board.report_worker_error(reason, format_traceback(error))
        raise
    finally:
        pulse.close()


def _train_loop(
    assignment: WorkerConfig, group: DistributedContext, attempt: int, pulse: HeartbeatThread
) -> None:
    job, folder, board = assignment.job, assignment.run_folder, assignment.coordinator
    torch.set_num_threads(job.scale.threads(group.cores_per_rank))
    batch = BatchSizes.from_scale(job.scale, group.world_size)
    checkpoints = CheckpointManager(
        folder.subfolder("checkpoints"),
        group.rank,
        group.world_size,
        job.checkpoint,
        check_owner=lambda: check_not_taken_over(folder, assignment.launch_number),
        is_protected=PendingEvaluationGuard(job, folder),
    )
    objective = build_objective(job)
    if group.is_main and assignment.initial_model is not None and checkpoints.newest() is None:
        load_initial_weights(
            objective, assignment.initial_model
        )  # the engine gives it to all ranks
        board.notify(f"begins with the weights of {job.model.start}")
    engine = Engine(objective, job, batch, group.device, load_teacher(job, folder))
    resume_from_checkpoint(engine, checkpoints, board, group)
    start = engine.step
    if group.is_main:
        board.report_resume_step(start)
    interruptions = Interruptions(pulse, group, board.notify)

    with ExitStack() as stack:
        feed = open_data_loader(
            job,
            assignment.prepared,
            batch,
            rank=group.rank,
            start_step=start,
            threads=job.data.decode_threads or group.cores_per_rank,
            broadcast=group.broadcast,
        )
        stack.callback(feed.close)
        name = f"{assignment.launch_number:04d}-{attempt:04d}"
        ledger = ClipLedgerWriter(folder.subfolder("ledger"), group.rank, attempt=name)
        spool = Spool(folder.subfolder("spool"), f"{name}-{group.rank:05d}")
        recorder = Recorder(
            job, assignment.tracking, engine, group, start, board, checkpoints, spool
        )
        stack.callback(recorder.close)
        profile = stack.enter_context(StepProfiler(folder, assignment.profile and group.is_main))

        pulse.set_phase(start, "data")
        for data in feed:
            pulse.set_phase(engine.step, "step")
            result = engine.train_step(data.micro_batches, interruptions.control_signal())
            for micro in data.micro_batches:
                ledger.append(data.step, micro)
            if engine.step == start + 1 and group.is_main:
                board.report_first_step(time.time())
            recorder.on_step_end(data, result)
            profile.step(data, result)
            if engine.step == job.optim.steps:
                _raise_if_not_finite(recorder, group, engine)
            turn = interruptions.decide(result.control)
            if engine.step == assignment.stop_after_step:
                turn = "stop"
            # While steps are skipped the state is that of the checkpoint before: the way back.
            due = job.is_checkpoint_step(engine.step) and not engine.spike_guard.consecutive_skipped
            if due or turn != "go on" or engine.step == job.optim.steps:
                pulse.set_phase(engine.step, "saving")
                began = time.perf_counter()
                state = {
                    **assignment.checkpoint_state,
                    "step": engine.step,
                    "position": engine.step * job.scale.global_batch,
                    "recent_losses": engine.spike_guard.state_dict(),
                    "row": recorder.summary()["metrics"],
                }
                checkpoints.save(
                    engine.take_snapshot(),
                    state,
                    recorder.health_metrics(),
                    wait=turn != "go on",
                    before_commit=[ledger.flush_later(), recorder.pending_writer()],
                )
                recorder.on_saved()
                recorder.meter.add_save_seconds(time.perf_counter() - began)
            if turn == "stop":
                break
            if assignment.evaluate_due is not None and due and engine.step < job.optim.steps:
                pulse.set_phase(engine.step, EVALUATING)
                checkpoints.wait()
                assignment.evaluate_due()
            pulse.set_phase(engine.step, "data")
        pulse.set_phase(engine.step, "saving")
        checkpoints.wait()
        recorder.on_saved()
    if not group.is_main:
        return
    if engine.step < job.optim.steps:
        board.report_stopped(engine.step)
        return
    newest = checkpoints.newest()
    assert newest is not None
    summary = recorder.summary()
    if not summary["metrics"]:  # nothing was left to train: an earlier start had done it all
        summary["metrics"] = checkpoints.last_metric_row(newest)
    board.report_finished({"checkpoint": newest, "phases": profile.mean_phase_seconds(), **summary})


def _raise_if_not_finite(recorder: Recorder, group: DistributedContext, engine: Engine) -> None:
    """After the last step: a model whose features are not finite is no result.

    Raises:
        TrainingDiverged: on all ranks at once.
    """
    blown_up = recorder.features_not_finite()
    if group.broadcast is not None:
        blown_up = group.broadcast(blown_up)
    if blown_up:
        raise TrainingDiverged(
            "the features of the last step are not finite",
            where=f"step {engine.step}",
            hint="lower optim.lr, set optim.clip, or train in fp32; what is saved stands, and"
            " --fresh begins anew",
        )


def resume_from_checkpoint(
    engine: Engine, checkpoints: CheckpointManager, board: RunCoordinator, group: DistributedContext
) -> None:
    """Load the newest complete checkpoint into the engine, if there is one.

    Rank 0 chooses, so that all ranks load the same one, and removes what is torn.
    """
    name = None
    if group.is_main:
        for torn in checkpoints.remove_incomplete():
            board.notify(f"removed {torn}: its writing had not been finished")
        name = checkpoints.newest()
    if group.broadcast is not None:
        name = group.broadcast(name)
    if name is None:
        return
    state = checkpoints.load(name, engine)
    engine.spike_guard.load_state_dict(state.get("recent_losses", []))
    if group.is_main:
        board.notify(
            f"resumed at step {state['step']} from {name}, on {group.world_size} worker(s)"
        )
