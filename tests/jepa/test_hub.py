from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from orchestrator.errors import DataError, RequestError
from orchestrator.jepa.model_files import (
    WorldModel,
    check_initial_weights,
    load_folder,
    load_weights_into,
    save_model,
)
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import job_dict


@pytest.fixture
def saved(tmp_path: Path, make_job: Any) -> tuple[Path, Any, Any, Any]:
    """A folder with an objective whose teacher differs from its student, and what was saved."""
    job = make_job()
    objective = build_objective(job)
    teacher = copy.deepcopy(objective.encoder)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_model(tmp_path / "model", objective, teacher, job, {"checkpoint": "step-00000001"})
    return tmp_path / "model", objective, teacher, job


def test_round_trip(saved: Any, video: Tensor) -> None:
    folder, objective, teacher, job = saved
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    model = load_folder(folder)
    with torch.no_grad():
        wanted = teacher(normalise(video, torch.float32))
    features = model.encode(video)
    assert features.dtype == torch.float32
    assert torch.equal(features, wanted)
    assert torch.equal(model.encode(video.numpy()), wanted)
    assert model.predictor is not None
    theirs = objective.predictor.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in model.predictor.state_dict().items())
    assert model.config.extra == {"checkpoint": "step-00000001"}
    assert model.config.job == job_dict(job)
    assert model.config.model.encoder == job.model.encoder


def test_features_can_train_a_probe(saved: Any, video: Tensor) -> None:
    probe = torch.nn.Linear(48, 2)
    probe(load_folder(saved[0]).encode(video)).sum().backward()


def test_without_a_teacher_and_from_bf16(tmp_path: Path, make_job: Any, video: Tensor) -> None:
    job = make_job()
    objective = build_objective(job).bfloat16()
    save_model(tmp_path, objective, None, job, {})
    model = load_folder(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    wanted = objective.float().encoder(normalise(video, torch.float32))
    assert torch.equal(model.encode(video), wanted)


def test_other_lengths_and_sizes(saved: Any, video: Tensor) -> None:
    model = load_folder(saved[0])
    assert model.encode(video[:, :4]).shape == (2, 32, 48)
    assert model.encode(video.repeat(1, 2, 1, 1, 1)).shape == (2, 128, 48)
    # Another implementation's antialiased resize gives nearly the same pixels and features.
    large = video.repeat_interleave(3, 2).repeat_interleave(2, 3)
    resized = np.stack(
        [
            [np.asarray(Image.fromarray(f).resize((32, 32), Image.Resampling.BILINEAR)) for f in c]
            for c in large.numpy()
        ]
    )
    ours, theirs = model.encode(large), model.encode(resized)
    assert ours.shape == (2, 64, 48)
    assert torch.cosine_similarity(ours, theirs, dim=-1).min() > 0.999


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros((1, 8, 32, 32, 3), np.float32), "float32"),
        (np.zeros((8, 32, 32, 3), np.uint8), r"\[8, 32, 32, 3\]"),
        (np.zeros((1, 3, 8, 32, 32), np.uint8), r"\[1, 3, 8, 32, 32\]"),
        (np.zeros((1, 7, 32, 32, 3), np.uint8), "7 frames"),
    ],
)
def test_wrong_videos_are_refused(saved: Any, wrong: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        load_folder(saved[0]).encode(wrong)


def test_missing_and_damaged_files(saved: Any, tmp_path: Path) -> None:
    folder = saved[0]
    with pytest.raises(DataError, match="cannot read it"):
        load_folder(tmp_path / "nowhere")

    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    for damaged in (whole[: len(whole) // 2], b"\x80\x04pickle", b""):
        weights.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot read the weights"):
            load_folder(folder)
    weights.unlink()
    with pytest.raises(DataError, match="cannot read the weights"):
        load_folder(folder)
    weights.write_bytes(whole)

    for broken in (text[:100], "[]", text.replace('"format": 1', '"format": 9')):
        config.write_text(broken)
        with pytest.raises(DataError, match=r"not a model's config"):
            load_folder(folder)
    wider = json.loads(text)
    wider["model"]["encoder"]["dim"] = 96
    config.write_text(json.dumps(wider))
    with pytest.raises(DataError, match=r"is \[.*\], not \[.*\]"):
        load_folder(folder)


def test_training_can_start_from_a_folder(saved: Any, make_job: Any) -> None:
    folder, objective, teacher, _ = saved
    fresh = build_objective(make_job("seed=9", "data.size=48", "data.frames=4"))
    load_weights_into(fresh, folder)
    for name, parameter in fresh.encoder.state_dict().items():
        assert torch.equal(parameter, teacher.state_dict()[name])
    theirs = objective.predictor.state_dict()
    for name, parameter in fresh.get_submodule("predictor").state_dict().items():
        assert torch.equal(parameter, theirs[name])

    with pytest.raises(RequestError, match=r"do not fit .*is \[24\], not \[36\].* more"):
        load_weights_into(build_objective(make_job("model.predictor.dim=36")), folder)
    with pytest.raises(RequestError, match=r"blocks\.2.* is missing"):
        load_weights_into(build_objective(make_job("model.encoder.depth=3")), folder)
    with pytest.raises(DataError):
        load_weights_into(fresh, folder / "nowhere")


def test_a_start_of_another_shape_is_refused_even_where_the_tensors_fit(
    saved: Any, make_job: Any
) -> None:
    folder = saved[0]
    check_initial_weights(make_job("seed=9", "data.size=48", "data.frames=4"), folder)
    with pytest.raises(RequestError, match=r"model\.encoder\.heads: \d -> 1") as error:
        check_initial_weights(make_job("model.encoder.heads=1"), folder)
    assert error.value.where == "model.from"


def test_custom_encoder_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: Any, video: Tensor
) -> None:
    (tmp_path / "mine_hub.py").write_text(
        "import torch\nfrom pydantic import BaseModel\n"
        "class Mean(torch.nn.Module):\n"
        "    class Config(BaseModel):\n        width: int\n"
        "    def __init__(self, config, *, size, frames, patch, tubelet):\n"
        "        super().__init__()\n"
        "        self.dim, self.cut = config.width, (tubelet, patch, patch)\n"
        "        self.lift = torch.nn.Linear(3, config.width)\n"
        "    def forward(self, x, keep=None):\n"
        "        pool = torch.nn.functional.avg_pool3d(x, self.cut)\n"
        "        return self.lift(pool.flatten(2).transpose(1, 2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    job = make_job("model.encoder={kind: 'mine_hub:Mean', width: 18}")
    save_model(tmp_path / "model", build_objective(job), None, job, {})
    model = load_folder(tmp_path / "model")
    assert isinstance(model, WorldModel)
    assert model.encode(video).shape == (2, 64, 18)
