"""DeepSpeed, imported and configured: what a job's scale means in its words."""

from __future__ import annotations

import io
import logging
import os
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn

from orchestrator.errors import RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob

# Elements reduced at a time. ZeRO-3 allocates one such buffer for good, so it is bounded.
BUCKET_ELEMENTS = 50_000_000


def initialize_deepspeed(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    device: torch.device,
) -> Any:
    """DeepSpeed's engine around `module` on `device`, quiet, with nothing compiled at run time.

    DeepSpeed picks its accelerator when it is imported, and on a CPU it builds a shared-memory
    operator at the first `initialize`, under a file lock. gloo does without that operator.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # It takes the index of its device from its launcher's variable, and insists on it.
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # Looked up by name before a build; absent means that no such operator can be built here.
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    with redirect_stdout(io.StringIO()):  # it prints memory statistics
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
    return engine


def deepspeed_config(
    job: TrainJob, batch: BatchSizes, device: torch.device, num_parameters: int
) -> dict[str, Any]:
    """The configuration of one engine for a model of `num_parameters` weights.

    bf16 computes in bf16 over fp32 masters and accumulates and reduces gradients in fp32, so
    that the sum does not depend on how many ranks share it. Stage 0 keeps fp32 parameters
    (`engine.StepModule` computes under autocast) and clips in its own optimizer.

    Raises:
        RequestError: offload asked for at stage 0, which has no sharded optimizer.
    """
    scale, stage = job.scale, job.scale.zero
    if scale.offload and stage == 0:
        raise RequestError(
            "scale.offload needs a sharded optimizer",
            where="scale.zero = 0",
            hint="set scale.zero to 1, 2 or 3, or scale.offload to false",
        )
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": min(BUCKET_ELEMENTS, num_parameters),
        "allgather_bucket_size": BUCKET_ELEMENTS,
        "stage3_prefetch_bucket_size": BUCKET_ELEMENTS,
    }
    if scale.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accum,
        "gradient_clipping": job.optim.clip if stage else 0.0,
        "bf16": {"enabled": scale.precision == "bf16" and stage > 0},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
