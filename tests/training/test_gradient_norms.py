"""Gradient norms by layer: the same under every ZeRO stage, and the whole step's norm together."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.job import TrainJob, build_job
from orchestrator.runner import run
from orchestrator.tracking.server import mlflow_client
from orchestrator.training.callbacks.gradient_norms import PREFIX, GradientNorms, layer_of
from tests.support.jobs import tiny_train_job
from tests.support.ranks import (
    make_engine,
    random_batch,
    rank_micro_batches,
    run_ranks,
    tiny_job,
)

STEPS = 3


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.blocks.3.attn.qkv.weight", "encoder.blocks.3"),
        ("encoder.patch_embed.proj.bias", "encoder.patch_embed"),
        ("encoder.norm.weight", "encoder.norm"),
        ("predictor.blocks.11.mlp.fc1.weight", "predictor.blocks.11"),
        ("mask_token", "mask_token"),
    ],
)
def test_a_layer_ends_at_the_first_number(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def logged_norms(
    rank: int, world_size: int, job: TrainJob, every: int
) -> tuple[list[float], dict[int, dict[str, float]]]:
    """The whole gradient's norm of each step, and what the callback logs, on one rank."""
    engine = make_engine(job, world_size)
    rows: dict[int, dict[str, float]] = {}

    def log(name: str, value: float) -> None:
        rows.setdefault(engine.step, {})[name] = value

    trainer: Any = SimpleNamespace(engine=engine, log=log, step=0)
    callback, norms = GradientNorms(GradientNorms.Config(every=every)), []
    for step in range(STEPS):
        trainer.step = engine.step
        callback.on_step_begin(trainer)
        micro = rank_micro_batches(random_batch(step), engine.batch_plan, rank)
        result = engine.train_step(micro)
        trainer.step = engine.step
        callback.on_step_end(trainer, None, result)  # type: ignore[arg-type]
        norms.append(result.grad_norm)
    return norms, rows


@pytest.mark.integration
def test_every_zero_stage_logs_the_same_norms_and_they_make_up_the_gradient() -> None:
    found = {}
    for zero in (0, 1, 2, 3):
        job = tiny_job(scale={"zero": zero}, clip=0.0)
        ranks = run_ranks(2, logged_norms, job, 1)
        assert ranks[0] == ranks[1], "a collective"
        norms, rows = found[zero] = ranks[0]
        assert sorted(rows) == [1, 2, 3]
        for step, row in rows.items():
            whole = math.sqrt(sum(norm**2 for norm in row.values()))
            assert whole == pytest.approx(norms[step - 1], rel=1e-4), (zero, step)
        assert {f"{PREFIX}encoder.blocks.0", f"{PREFIX}predictor.blocks.0"} < rows[1].keys()
    for zero in (1, 2, 3):
        for step, row in found[zero][1].items():
            assert row == pytest.approx(found[0][1][step], rel=1e-3), (zero, step)


@pytest.mark.integration
def test_only_due_steps_are_logged_and_norms_are_after_clipping() -> None:
    (ranks,) = run_ranks(1, logged_norms, tiny_job(clip=1e-3), 2)
    norms, rows = ranks
    assert sorted(rows) == [2]
    assert norms[1] > 1e-3
    whole = math.sqrt(sum(norm**2 for norm in rows[2].values()))
    assert whole == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.integration
def test_a_run_logs_them_to_mlflow(tmp_path: Path) -> None:
    callbacks = [{"kind": "gradient-norms", "every": 2}]
    job = build_job(tiny_train_job(storage=str(tmp_path), callbacks=callbacks))
    outcome = run(job, local=True)
    client = mlflow_client(outcome.tracking_uri)
    rows = client.get_metric_history(outcome.run_id, f"{PREFIX}encoder.blocks.0")
    assert [row.step for row in rows] == [2, 4]
    assert all(row.value > 0 for row in rows)
