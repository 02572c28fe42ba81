"""The fingerprint: the same for the same job, another when something else is learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.job import build_job, differences, fingerprint, identity, job_dict, load_job


def test_order_of_keys_and_written_defaults_do_not_matter(job_file: Path) -> None:
    text = job_file.read_text()
    head, tail = text.split("optim:")
    job_file.write_text(f"optim:{tail}{head}")
    turned = load_job(job_file)
    job_file.write_text(text.replace("{steps: 100}", "{weight_decay: 0.04, steps: 100}"))
    assert fingerprint(turned) == fingerprint(load_job(job_file))


def test_a_job_survives_plain_data(job_file: Path) -> None:
    job = load_job(job_file, ["track.register=models", "scale.workers=3"])
    assert build_job(job_dict(job)) == job


@pytest.mark.parametrize(
    "override",
    [
        "scale.workers=4",
        "scale.zero=3",
        "scale.micro_batch=2",
        "scale.activation_checkpointing=true",
        "data.decode_threads=3",
        "data.prefetch=5",
        "storage=elsewhere",
        "checkpoint.every=7",
        "evaluate=[{every: 10, job: {name: physics}}]",
        "track.experiment=other",
    ],
)
def test_where_and_how_fast_it_runs_is_no_part_of_it(job_file: Path, override: str) -> None:
    assert fingerprint(load_job(job_file, [override])) == fingerprint(load_job(job_file))


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr=1e-3",
        "seed=1",
        "scale.global_batch=64",
        "scale.precision=fp32",
        "data.source=other",
        "data.augment.flip=0",
        "objective.ema=0.9",
        "objective.masks.0.blocks=3",
        "model.encoder.depth=3",
    ],
)
def test_what_is_learned_is_part_of_it(job_file: Path, override: str) -> None:
    changed, job = load_job(job_file, [override]), load_job(job_file)
    assert fingerprint(changed) != fingerprint(job)
    told = differences(identity(job), identity(changed))
    assert len(told) == 1
    assert told[0].startswith(override.split("=")[0])
