"""A user's own parts: found by import path, checked by their own Config before a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import build_job, component_config, job_dict, load_job
from orchestrator.job.config.base import CustomComponent


def with_objective(path: Path, text: str) -> Path:
    job = path.read_text()
    head, tail = job[: job.index("objective:")], job[job.index("optim:") :]
    path.write_text(f"{head}objective: {text}\n{tail}")
    return path


def test_a_part_of_ones_own_is_checked_by_its_config(job_file: Path, custom_parts: str) -> None:
    job = load_job(with_objective(job_file, f"{{kind: '{custom_parts}:Loss', levels: '4'}}"))
    assert job.kind == "train"
    assert isinstance(job.objective, CustomComponent)
    assert component_config(job.objective).model_dump() == {"weight": 1.0, "levels": 4}
    assert build_job(job_dict(job)) == job


def test_a_config_may_allow_more_keys(job_file: Path, custom_parts: str) -> None:
    load_job(with_objective(job_file, f"{{kind: '{custom_parts}:Open', anything: 1}}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{kind: 'mylab_parts:Loss'}", "levels: this key is required"),
        ("{kind: 'mylab_parts:Loss', levels: x}", "levels: should be a valid integer"),
        ("{kind: 'mylab_parts:Loss', levels: 1, wieght: 2}", "did you mean 'weight'?"),
        ("{kind: 'mylab_parts:Lost', levels: 1}", "did you mean 'Loss'?"),
        ("{kind: 'mylab_parts:Bare'}", "needs an attribute 'Config'"),
        ("{kind: 'mylab_absent:Loss'}", "No module named 'mylab_absent'"),
        ("{kind: 'mylab_broken:Loss'}", "RuntimeError: no licence"),
        ("{kind: 'mylab_parts:'}", "objective.kind"),
    ],
)
def test_a_wrong_part_is_one_clear_error(
    job_file: Path, custom_parts: str, text: str, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        load_job(with_objective(job_file, text))
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_encoders_augmentations_and_masks_take_import_paths(
    job_file: Path, custom_parts: str
) -> None:
    kind = f"{custom_parts}:Open"
    job = load_job(
        job_file,
        [
            f"model.encoder={{kind: '{kind}', width: 3}}",
            f"data.augment={{kind: '{kind}'}}",
            f"objective.masks=[{{kind: '{kind}'}}]",
        ],
    )
    assert job.kind == "train"
    assert isinstance(job.model.encoder, CustomComponent)
    assert isinstance(job.data.augment, CustomComponent)
    # A bare string names the encoder too.
    assert isinstance(
        load_job(job_file, [f"model.encoder={kind}"]).model_dump()["model"]["encoder"], dict
    )
