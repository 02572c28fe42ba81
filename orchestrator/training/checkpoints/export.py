"""From a checkpoint to a model that others load: no process group, no DeepSpeed, no GPU."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from orchestrator.errors import DataError
from orchestrator.jepa.model_files import save_model
from orchestrator.jepa.objectives import Objective, build_objective
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import read_full_tensors
from orchestrator.training.resolve.frozen_teacher import load_teacher


def export_model(job: TrainJob, checkpoints: Storage, name: str, folder: Path) -> None:
    """Write config.json and model.safetensors of checkpoint `name` into `folder`.

    A model whose encoder is a frozen teacher gets it from the run's folder, around `checkpoints`.

    Raises:
        DataError: the checkpoint is damaged, or holds other tensors than the job's model.
    """
    tensors = read_full_tensors(checkpoints, name)
    objective = build_objective(job)
    _copy_parameters(objective, tensors, "student/", name)
    teacher: torch.nn.Module | None = None
    if objective.averaged is not None:
        teacher = copy.deepcopy(objective.get_submodule(objective.averaged))
        _copy_parameters(teacher, tensors, "teacher/", name)
    if not job.objective_config.trains_encoder:
        teacher = load_teacher(job, checkpoints.parent)
    save_model(folder, objective, teacher, job, {"checkpoint": name})


def _copy_parameters(
    module: Objective | torch.nn.Module, tensors: dict[str, torch.Tensor], prefix: str, name: str
) -> None:
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    own = dict(module.named_parameters())
    if found.keys() != own.keys():
        odd = sorted(found.keys() ^ own.keys())[:3]
        raise DataError(
            f"the checkpoint's {prefix[:-1]} does not hold the model's parameters: {odd}",
            where=name,
            hint="export with the job that wrote it",
        )
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(found[key])
