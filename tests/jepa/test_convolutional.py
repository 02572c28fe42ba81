"""The convolutional encoder: moment by moment, the same alone and in a batch; who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.convolutional import ConvolutionalEncoder
from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import ConvEncoderConfig, TrainJob, build_job

CONV = {"kind": "conv", "dim": 32, "width": 8}


def a_job(*overrides: str, **model: Any) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "conv",
            "data": {"source": "physics://mixed?clips=8", "size": 32, "frames": 6, "fps": 8},
            "model": {
                "encoder": CONV,
                "patch": 8,
                "tubelet": 2,
                "predictor": {"dim": 24, "depth": 1, "heads": 2},
                **model,
            },
            "objective": {"kind": "lewm", "slices": 8, "hidden": 16, "embed": 8, "pool": "places"},
            "optim": {"steps": 4},
            "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        },
        list(overrides),
    )
    assert isinstance(job, TrainJob)
    return job


@pytest.fixture
def encoder() -> ConvolutionalEncoder:
    torch.manual_seed(0)
    return ConvolutionalEncoder(ConvEncoderConfig.model_validate(CONV), patch=8, tubelet=2)


def test_a_token_stands_for_a_patch_and_its_moment_alone(encoder: ConvolutionalEncoder) -> None:
    video = torch.randn(2, 3, 6, 32, 48)
    tokens = encoder(video)
    assert tokens.shape == (2, 3 * 4 * 6, 32)
    other = video.clone()
    other[:, :, 2:4] = torch.randn(2, 3, 2, 32, 48)  # the second moment
    changed = (encoder(other) != tokens).view(2, 3, 24, 32)
    assert not changed[:, [0, 2]].any()
    assert changed[:, 1].any(-1).all()


def test_a_token_lies_where_its_patch_does(encoder: ConvolutionalEncoder) -> None:
    """Row by row, as the ids of tokens say: what changes lies about the pixels that do."""
    video = torch.zeros(1, 3, 2, 64, 64)
    for y, x in ((1, 6), (5, 2)):
        touched = video.clone()
        touched[..., 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 3.0
        with torch.no_grad():
            apart = (encoder(touched) - encoder(video)).square().sum(-1).view(8, 8)
        # Of 8 x 8 tokens these are nine: a seventh would be chance.
        near = apart[y - 1 : y + 2, x - 1 : x + 2].sum()
        assert float(near / apart.sum()) > 0.5


def test_a_clip_is_read_alike_alone_and_in_a_batch(encoder: ConvolutionalEncoder) -> None:
    video = torch.randn(3, 3, 4, 32, 32)
    torch.testing.assert_close(encoder(video)[1:2], encoder(video[1:2]))


def test_moments_that_are_kept_are_read_as_if_alone(encoder: ConvolutionalEncoder) -> None:
    video = torch.randn(2, 3, 6, 32, 32)
    whole = encoder(video).view(2, 3, 16, 32)
    keep = torch.stack([torch.arange(16, 48), torch.cat([torch.arange(16), torch.arange(32, 48)])])
    kept = encoder(video, keep).view(2, 2, 16, 32)
    torch.testing.assert_close(kept[0], whole[0, 1:])
    torch.testing.assert_close(kept[1], whole[1, [0, 2]])


@pytest.mark.parametrize("objective", ["lewm", "causal"])
def test_a_model_is_saved_and_loaded_with_the_same_features(objective: str, tmp_path: Path) -> None:
    more = () if objective == "lewm" else ("objective={kind: causal, horizons: 1}",)
    job = a_job(*more)
    torch.manual_seed(1)
    built = build_objective(job)
    save_model(tmp_path, built, None, job, {})
    video = torch.randint(0, 256, (2, 6, 32, 32, 3), dtype=torch.uint8)
    features = load_folder(tmp_path).encode(video)
    pixels = normalise(video, torch.float32)
    torch.testing.assert_close(features, built.encoder(pixels).detach())
    assert features.shape == ((2, 3, 8) if objective == "lewm" else (2, 48, 32))


def test_a_whole_loss_reaches_every_weight() -> None:
    job = a_job()
    objective = build_objective(job)
    objective(torch.randn(4, 3, 6, 32, 32), [], None).loss.sum().backward()
    without = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("objective={kind: vjepa2}",), "model.encoder.kind: 'conv' leaves nothing for the masks"),
        (("objective={kind: lejepa}",), "model.encoder.kind: 'conv' leaves nothing for the masks"),
        (("model.levels=[1]",), "model.levels: an encoder 'conv' has no levels"),
        (("model.patch=12", "data.size=48"), "model.patch: 12 is no power of two"),
        (("model.patch=1",), "model.patch: 1 is no power of two"),
        (("model.encoder.dim=20",), "model.encoder.dim: should be a multiple of 8"),
        (("model.encoder.depth=3",), "model.encoder.depth: unknown key"),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        a_job(*overrides)
    assert says in str(caught.value)


def test_it_is_built_where_a_job_says_conv() -> None:
    built = build_encoder(a_job().model, size=32, frames=6)
    assert isinstance(built, ConvolutionalEncoder)
    channels = [m.out_channels for m in built.stages if isinstance(m, torch.nn.Conv2d)]
    assert channels == [8, 16, 32]
