"""Overhead of orchestration: a whole run compared with a bare DeepSpeed loop.

Both have the same model, sizes, ranks and threads. The job runs as a person runs it, with Ray
Train, Ray Data, decoding, health, tracking and checkpoints on the same cores. They take turns.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from orchestrator.bench.ranks import PATIENCE_S, join_process_group, run_ranks
from orchestrator.data.packing.prepare import prepare_data
from orchestrator.errors import JobFailed, RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob, job_dict
from orchestrator.progress import SilentProgress
from orchestrator.ray_session import ray_session
from orchestrator.tracking.server import mlflow_client

WARMUP = 3
"""Warm-up steps of the bare loop."""


def bench_orchestration(job: TrainJob, folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Mean seconds of a step, whole and bare, and seconds from `run` to the end of the first.

    Args:
        job: its workers fit this machine, and a step is one micro-batch on each.
        folder: takes the runs, and the packed data.
        steps: of each, in every round.

    Raises:
        RequestError: the job accumulates, or is too short to log twice.
        JobFailed: a contender did not end well.
    """
    if BatchSizes.from_scale(job.scale, job.scale.max_workers).accum > 1:
        raise RequestError(
            "the bare loop does not accumulate gradients",
            where="scale.global_batch",
            hint="make it workers x micro_batch",
        )
    if steps < 2 * job.track.every:
        raise RequestError(
            f"{steps} steps are fewer than two rows of metrics",
            where="--steps",
            hint=f"take {2 * job.track.every} or more, or a smaller track.every",
        )
    track = job.track.model_copy(update={"register_as": None})
    update = {"storage": str(folder / "storage"), "track": track}
    job = job.model_copy(update=update)
    with ray_session():
        prepare_data(
            job, SilentProgress()
        )  # packing is no part of a step, nor of the time to the first
    bare, whole, first = [], [], []
    for turn in range(rounds):
        bare.append(_bare_deepspeed_run(job, folder, steps))
        seconds, started = _orchestrated_run(job, folder, steps, f"whole-{turn}")
        whole.append(seconds)
        first.append(started)
    bare.append(_bare_deepspeed_run(job, folder, steps))
    beside = [(before + after) / 2 for before, after in itertools.pairwise(bare)]
    ratios = [ours / theirs for ours, theirs in zip(whole, beside, strict=True)]
    return {
        "step_s": {"orchestrated": statistics.median(whole), "bare": statistics.median(bare)},
        "orchestrated_over_bare": statistics.median(ratios),
        "ratios": ratios,
        "first_step_s": statistics.median(first),
        "workers": job.scale.max_workers,
        "steps": steps,
        "rounds": rounds,
    }


def _orchestrated_run(job: TrainJob, folder: Path, steps: int, name: str) -> tuple[float, float]:
    """Mean seconds of a step once it runs, and seconds to the end of the first."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**job_dict(job), "name": name}))
    command = [sys.executable, "-m", "orchestrator", "run", str(file), f"optim.steps={steps}"]
    command += ["optim.warmup=0", "optim.decay=0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise JobFailed(f"{name} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    summary = json.loads(done.stdout)
    client = mlflow_client(summary["tracking_uri"])
    rows = client.get_metric_history(summary["run_id"], "speed/step_s")
    seconds = [row.value for row in sorted(rows, key=lambda row: row.step)]
    # The first row holds the wait for the first clips.
    return statistics.mean(seconds[1:]), summary["seconds_to_first_step"]


def _bare_deepspeed_run(job: TrainJob, folder: Path, steps: int) -> float:
    """Mean seconds of a step of as many processes, started as torchrun does."""
    file = folder / "bare.yaml"
    file.write_text(yaml.safe_dump(job_dict(job)))
    return float(run_ranks(job.scale.max_workers, __name__, str(file), str(steps))[0])


def _bare_rank(file: str, steps: int) -> None:
    import torch.distributed as dist

    from orchestrator.bench.training_step import (
        NUM_BATCHES,
        deepspeed_step,
        random_batch,
        single_process_job,
    )
    from orchestrator.job import load_job, require_kind

    job = require_kind(load_job(file), TrainJob)
    rank, world, device = join_process_group(job.scale)
    step = deepspeed_step(single_process_job(job), device)
    batches = [random_batch(job, world * i + rank, device) for i in range(NUM_BATCHES)]
    seconds = []
    for number in range(WARMUP + steps):
        began = time.perf_counter()
        step(batches[number % NUM_BATCHES])
        seconds.append(time.perf_counter() - began)
    print(statistics.mean(seconds[WARMUP:]))
    dist.destroy_process_group()


if __name__ == "__main__":
    _bare_rank(sys.argv[1], int(sys.argv[2]))
