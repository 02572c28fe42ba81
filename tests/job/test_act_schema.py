"""`data.actions`: what may stand beside it in a train job."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import CropFlip, TrainJob, build_job, explicit_job_dict


def acting(**keys: Any) -> dict[str, Any]:
    job: dict[str, Any] = {
        "kind": "train",
        "name": "acting",
        "data": {"source": "videos", "size": 64, "act": {}},
        "model": {"patch": 8},
        "optim": {"steps": 3},
    }
    for key, value in keys.items():
        section, name = key.split("__")
        job.setdefault(section, {})[name] = value
    return job


def built(data: dict[str, Any]) -> TrainJob:
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


@pytest.mark.parametrize("written", [None, {}, {"flip": 0}, {"kind": "crop-flip", "scale": [1, 1]}])
def test_what_is_not_written_of_the_augmentation_is_the_whole_frame(written: Any) -> None:
    job = built(acting(**({} if written is None else {"data__augment": written})))
    assert job.data.augment == CropFlip(scale=(1, 1), aspect=(1, 1), flip=0)
    assert build_job(explicit_job_dict(job)) == job
    assert built(acting(data__act=None)).data.augment == CropFlip()


@pytest.mark.parametrize(
    ("augment", "key", "said"),
    [
        ({"flip": 0.5}, "data.augment.flip", "mirrors the picture and not the actions"),
        ({"scale": [0.5, 1]}, "data.augment.scale", "moves the picture"),
        ({"aspect": [1, 1.3]}, "data.augment.aspect", "moves the picture"),
    ],
)
def test_an_augmentation_that_contradicts_the_actions_is_refused(
    augment: Any, key: str, said: str
) -> None:
    with pytest.raises(RequestError) as error:
        built(acting(data__augment=augment))
    assert key in str(error.value)
    assert said in str(error.value)


def test_lewm_wants_a_moment_to_be_a_frame() -> None:
    encoder = {"dim": 16, "depth": 1, "heads": 1, "attention": "moment"}
    keys: dict[str, Any] = {"objective__kind": "lewm", "model__encoder": encoder}
    with pytest.raises(RequestError, match=r"model\.tubelet.*write 1 beside data\.actions"):
        built(acting(**keys, model__tubelet=2))
    assert built(acting(**keys, model__tubelet=1)).data.actions is not None
    assert built(acting(**keys, model__tubelet=2, data__act=None)).model.tubelet == 2
