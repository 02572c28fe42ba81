"""The ranks of a training are started: in this process, or as workers of Ray Train."""

from __future__ import annotations

import logging
from typing import Any

from orchestrator.errors import JobFailed, OrchestratorError
from orchestrator.ray_session import add_to_sys_path, custom_code_folders
from orchestrator.training.control.coordinator import ClusterLost
from orchestrator.training.placement import scaling_config, set_ray_train_timeouts
from orchestrator.training.worker_config import WorkerConfig
from orchestrator.unexpected import format_traceback, one_line


def train_local(config: WorkerConfig) -> None:
    """Train in this process, without Ray.

    Raises:
        OrchestratorError: the training cannot go on.
    """
    from orchestrator.training.distributed import local_context
    from orchestrator.training.engine.spike_guard import RollbackRequested
    from orchestrator.training.worker import run_worker

    group = local_context(config.job.scale.device)
    try:
        run_worker(config, group)
    except RollbackRequested:
        run_worker(config, group)


def train_on_ray(config: WorkerConfig) -> None:
    """Start the workers with Ray Train, which starts them again when some are lost.

    Raises:
        OrchestratorError: the workers cannot go on, for the reason that it gives.
        ClusterLost: the Ray cluster no longer answers.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from orchestrator.training.torch_backend import LoopbackTorchConfig

    job, folder = config.job, config.run_folder
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    set_ray_train_timeouts(job)
    trainer = TorchTrainer(
        _run_ray_worker,
        train_loop_config={"config": config, "python_path": custom_code_folders()},
        torch_config=LoopbackTorchConfig(timeout_s=max(1, round(job.scale.timeout))),
        scaling_config=scaling_config(job),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=folder.fs_path("ray"),
            storage_filesystem=folder.fs,
            # As often as it takes: the coordinator ends a training that gets no further.
            failure_config=ray.train.FailureConfig(max_failures=-1),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _root_cause(error, config) from error
    except ray.exceptions.RayError as error:  # not the workers': the controller's own end
        raise ClusterLost.from_ray_error(error) from error


def _run_ray_worker(loop_config: dict[str, Any]) -> None:
    """What Ray Train calls in each worker process."""
    add_to_sys_path(loop_config["python_path"])
    from orchestrator.training.distributed import ray_context
    from orchestrator.training.worker import run_worker

    run_worker(loop_config["config"], ray_context())


def _root_cause(error: Exception, config: WorkerConfig) -> OrchestratorError:
    """The one message that explains why the workers died."""
    status = config.coordinator.read_status()
    if status.fatal_error is not None:
        return status.fatal_error
    failures = getattr(error, "worker_failures", {})
    causes = [f"rank {rank}: {one_line(e)}" for rank, e in sorted(failures.items())]
    return JobFailed(
        f"the workers could not go on: {causes[0] if causes else one_line(error)}",
        where=config.run_folder.root,
        hint="the last checkpoint stands: the same command continues from it; --debug shows all",
        details="\n".join([format_traceback(error), *map(format_traceback, failures.values())]),
    )
