"""What every rank runs: set-up, the trainer, and what becomes of an error."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch

from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter
from orchestrator.data.loader.data_loader import open_data_loader
from orchestrator.errors import OrchestratorError
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.objectives import build_objective
from orchestrator.tracking.live.spool import Spool
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.callbacks.checkpoint_schedule import CheckpointSchedule
from orchestrator.training.callbacks.clip_ledger import ClipLedger
from orchestrator.training.callbacks.custom import make_custom_callbacks
from orchestrator.training.callbacks.finite_features import FiniteFeatureCheck
from orchestrator.training.callbacks.first_step import FirstStepReport
from orchestrator.training.callbacks.interruptions import Interruptions
from orchestrator.training.callbacks.local_evaluation import LocalEvaluation
from orchestrator.training.callbacks.recorder import Recorder
from orchestrator.training.callbacks.step_profile import StepProfiler
from orchestrator.training.checkpoints.eval_exports import PendingEvaluationGuard
from orchestrator.training.checkpoints.manager import CheckpointManager
from orchestrator.training.control.coordinator import RunCoordinator
from orchestrator.training.control.heartbeat import HeartbeatThread
from orchestrator.training.control.log_forwarding import forward_warnings
from orchestrator.training.distributed import DistributedContext
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.spike_guard import RollbackRequested, TrainingDiverged
from orchestrator.training.resolve.frozen_teacher import load_teacher
from orchestrator.training.resolve.initial_model import load_initial_weights
from orchestrator.training.run_record import check_not_taken_over
from orchestrator.training.trainer import Trainer
from orchestrator.training.worker_config import WorkerConfig
from orchestrator.unexpected import add_error_context, format_traceback, one_line


def run_worker(config: WorkerConfig, group: DistributedContext) -> None:
    """Train to the last step. Errors that no restart can mend are reported to the coordinator.

    Raises:
        OrchestratorError: a mistake in the job or the data.
        RollbackRequested: call it again; Ray Train does by itself.
    """
    coordinator = config.coordinator
    attempt = coordinator.start_attempt() if group.is_main else 0
    if group.broadcast is not None:
        attempt = group.broadcast(attempt)
    if attempt == 0:
        return  # the driver knows why
    heartbeat = HeartbeatThread(coordinator, group.rank, config.job.scale.timeout / 2)
    try:
        with forward_warnings(coordinator, group.rank):
            _train(config, group, attempt, heartbeat)
    except TrainingDiverged as error:
        if not group.is_main:
            raise  # rank 0 says what becomes of it
        if not coordinator.request_rollback():
            error.what += "; going back to the last checkpoint did not help"
            coordinator.report_fatal(error)
            raise
        coordinator.notify(f"{error.where}: {error.what}; going back to the last checkpoint, once")
        raise RollbackRequested(str(error)) from error
    except OrchestratorError as error:
        coordinator.report_fatal(error)
        raise
    except Exception as error:
        add_error_context(error, heartbeat.phase_text)
        reason = f"rank {group.rank}: {one_line(error)} (while {heartbeat.phase_text})"
        coordinator.report_worker_error(reason, format_traceback(error))
        raise
    finally:
        heartbeat.close()


def _train(
    config: WorkerConfig, group: DistributedContext, attempt: int, heartbeat: HeartbeatThread
) -> None:
    """Set up the engine and the data, train, and report the outcome."""
    job, coordinator = config.job, config.coordinator
    torch.set_num_threads(job.scale.threads(group.cores_per_rank))
    batch = BatchSizes.from_scale(job.scale, group.world_size)
    custom_callbacks = make_custom_callbacks(job)
    checkpoints = _open_checkpoints(config, group)
    engine = _build_engine(config, group, batch, checkpoints)
    resume_state = resume_from_checkpoint(engine, checkpoints, coordinator, group)
    if group.is_main:
        coordinator.report_resume_step(engine.step)
    data_loader = open_data_loader(
        job,
        config.prepared,
        batch,
        rank=group.rank,
        start_step=engine.step,
        threads=job.data.decode_threads or group.cores_per_rank,
        broadcast=group.broadcast,
    )
    with closing(data_loader):
        name = f"{config.launch_number:04d}-{attempt:04d}"
        spool = Spool(config.run_folder.subfolder("spool"), f"{name}-{group.rank:05d}")
        recorder = Recorder(job, config.tracking, spool, group)
        profiler = StepProfiler(config.run_folder, config.profile and group.is_main)
        trainer = Trainer(
            job=job,
            engine=engine,
            data_loader=data_loader,
            checkpoints=checkpoints,
            group=group,
            run_folder=config.run_folder,
            coordinator=coordinator,
            heartbeat=heartbeat,
            recorder=recorder,
            callbacks=make_callbacks(
                config, group, heartbeat, name, recorder, [profiler, *custom_callbacks]
            ),
            checkpoint_state=config.checkpoint_state,
            resume_state=resume_state,
        )
        trainer.run()
    if group.is_main:
        _report_outcome(trainer, profiler)


def make_callbacks(
    config: WorkerConfig,
    group: DistributedContext,
    heartbeat: HeartbeatThread,
    attempt_name: str,
    recorder: Recorder,
    others: Sequence[Callback],
) -> list[Callback]:
    """Every callback of a training, in the order of their calls: the same on all ranks.

    The recorder comes before those that log by it (`others`), and all that observe a step before
    those that decide what follows it.
    """
    ledger = ClipLedgerWriter(
        config.run_folder.subfolder("ledger"), group.rank, attempt=attempt_name
    )
    callbacks = [
        ClipLedger(ledger),
        FirstStepReport(),
        recorder,
        *others,
        FiniteFeatureCheck(recorder),
        Interruptions(heartbeat, group, config.coordinator.notify, config.stop_after_step),
        CheckpointSchedule(),
    ]
    if config.evaluate_due is not None:
        callbacks.append(LocalEvaluation(config.evaluate_due))
    return callbacks


def _open_checkpoints(config: WorkerConfig, group: DistributedContext) -> CheckpointManager:
    job, folder = config.job, config.run_folder
    return CheckpointManager(
        folder.subfolder("checkpoints"),
        group.rank,
        group.world_size,
        job.checkpoint,
        check_owner=lambda: check_not_taken_over(folder, config.launch_number),
        is_protected=PendingEvaluationGuard(job, folder),
    )


def _build_engine(
    config: WorkerConfig,
    group: DistributedContext,
    batch: BatchSizes,
    checkpoints: CheckpointManager,
) -> Engine:
    """The engine at step 0; with the weights of `model.from` where nothing is saved yet."""
    job = config.job
    objective = build_objective(job)
    if group.is_main and config.initial_model is not None and checkpoints.newest() is None:
        # Only rank 0 reads them: the engine broadcasts them to all ranks.
        load_initial_weights(objective, config.initial_model)
        config.coordinator.notify(f"begins with the weights of {job.model.start}")
    return Engine(objective, job, batch, group.device, load_teacher(job, config.run_folder))


def _report_outcome(trainer: Trainer, profiler: StepProfiler) -> None:
    """Tell the driver what the training came to, or at which step it was stopped."""
    if trainer.step < trainer.job.optim.steps:
        trainer.coordinator.report_stopped(trainer.step)
        return
    newest = trainer.checkpoints.newest()
    assert newest is not None
    summary = trainer.recorder.summary()
    if not summary["metrics"]:  # nothing was left to train: an earlier start had done it all
        summary["metrics"] = trainer.checkpoints.last_metric_row(newest)
    trainer.coordinator.report_finished(
        {"checkpoint": newest, "phases": profiler.mean_phase_seconds(), **summary}
    )


def resume_from_checkpoint(
    engine: Engine,
    checkpoints: CheckpointManager,
    coordinator: RunCoordinator,
    group: DistributedContext,
) -> dict[str, Any]:
    """Load the newest complete checkpoint into the engine; gives its state.json, or {} for none.

    Rank 0 chooses, so that all ranks load the same one, and removes incomplete ones.
    """
    name = None
    if group.is_main:
        for torn in checkpoints.remove_incomplete():
            coordinator.notify(f"removed {torn}: its writing had not been finished")
        name = checkpoints.newest()
    if group.broadcast is not None:
        name = group.broadcast(name)
    if name is None:
        return {}
    state = checkpoints.load(name, engine)
    engine.spike_guard.load_state_dict(state.get("recent_losses", []))
    if group.is_main:
        coordinator.notify(
            f"resumed at step {state['step']} from {name}, on {group.world_size} worker(s)"
        )
    return state
