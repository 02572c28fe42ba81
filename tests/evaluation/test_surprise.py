"""Surprise is the distance between prediction and outcome, window by window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.surprise import (
    ContextSpec,
    SlidingWindows,
    aggregate_errors,
    context_specs,
    encode_windows,
    surprise,
    surprise_by_frame,
)
from orchestrator.jepa.model_files import WorldModel, randomly_initialized_model
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from tests.support.tiny import model_config, tiny_job


def videos(count: int, frames: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, frames, 32, 32, 3), dtype=np.uint8)


def test_errors_are_those_of_a_loop_over_tokens(tiny_model: WorldModel) -> None:
    clip, view = torch.from_numpy(videos(1, 8)), ContextSpec(context=4, mask=1)
    found = encode_windows(tiny_model, clip, [view]).errors[view][0]
    pixels = normalise(clip, torch.float32)
    assert tiny_model.predictor is not None
    whole = tiny_model.encoder(pixels)[0].double()
    seen = list(range(2 * 16))
    hidden = list(range(2 * 16, 4 * 16))
    z = tiny_model.encoder(pixels, torch.tensor([seen]))
    predicted = tiny_model.predictor(z, torch.tensor([seen]), torch.tensor([hidden]), 1)[0].double()
    for tubelet in (2, 3):
        distances = []
        for token in range(tubelet * 16, tubelet * 16 + 16):
            wanted = whole[token]
            wanted = (wanted - wanted.mean()) / (wanted.var(unbiased=False) + 1e-5).sqrt()
            distances.append((predicted[hidden.index(token)] - wanted).abs().mean())
        assert float(found[tubelet]) == pytest.approx(
            float(torch.stack(distances).mean()), rel=1e-5
        )
    assert found[:2].isnan().all()


def test_windows_cover_the_end_and_keep_to_tubelets() -> None:
    assert SlidingWindows.with_stride(24, 16, 4, 2).starts == (0, 4, 8)
    assert SlidingWindows.with_stride(24, 16, 5, 2).starts == (0, 4, 8)
    assert SlidingWindows.with_stride(17, 16, 4, 2).starts == (0, 1)
    with pytest.raises(RequestError, match="12 frames, the model's clip has 16"):
        SlidingWindows.with_stride(12, 16, 4, 2)


def test_each_frame_is_judged_by_the_windows_that_predict_it(tiny_model: WorldModel) -> None:
    windows, view = SlidingWindows.with_stride(12, 8, 2, 2), ContextSpec(4, 0)
    found = surprise(tiny_model, videos(3), [view], windows)[view]
    assert found.shape == (3, 3, 12)
    for i, start in enumerate(windows.starts):
        unseen = np.isnan(found[:, i])
        assert not unseen[:, start + 4 : start + 8].any()
        assert unseen[:, : start + 4].all()
        clips = torch.from_numpy(videos(3)[:, start : start + 8])
        alone = encode_windows(tiny_model, clips, [view]).errors[view]
        np.testing.assert_allclose(found[:, i, start + 4 : start + 8 : 2], alone[:, 2:], rtol=1e-5)
    by_frame = surprise_by_frame(found)
    assert np.isnan(by_frame[:, :4]).all()
    np.testing.assert_allclose(by_frame[:, 6], np.nanmean(found[:, :2, 6], axis=1), rtol=1e-6)
    each = np.nanmean(found, axis=-1)
    np.testing.assert_allclose(aggregate_errors(found, "mean"), each.mean(1))
    np.testing.assert_allclose(aggregate_errors(found, "max"), each.max(1))


def test_a_model_that_reads_forwards_predicts_each_moment_from_those_before() -> None:
    data = job_dict(tiny_job())
    data["objective"] = {"kind": "causal", "horizons": 2}
    data["model"]["encoder"]["attention"] = "moment"
    job = build_job(data)
    assert isinstance(job, TrainJob)
    model = randomly_initialized_model(model_config(job), 0)
    views = context_specs(model, [4])
    assert views == [ContextSpec(4, 0, 1), ContextSpec(4, 0, 2)]
    clip = torch.from_numpy(videos(2, 8))
    sight = encode_windows(model, clip, views)
    wanted = model.compared(model.encode(clip), clip).view(2, 4, 16, -1)
    for view in views:
        for moment in (2, 3):
            last = moment - view.horizon + 1  # moments that may be seen
            z = model.encode(clip[:, : 2 * last])
            guess = model.foresee(z)[:, : 16 * view.horizon].view(2, view.horizon, 16, -1)[:, -1]
            expected = (guess - wanted[:, moment]).abs().mean((1, 2))
            torch.testing.assert_close(sight.errors[view][:, moment], expected)
        assert sight.errors[view][:, :2].isnan().all()


def test_a_context_that_is_no_part_of_the_clip_is_refused(tiny_model: WorldModel) -> None:
    assert {view.context for view in context_specs(tiny_model, [])} == {2, 4, 6}
    assert {view.mask for view in context_specs(tiny_model, [4])} == {0, 1}
    for wrong in (3, 8, 10):
        with pytest.raises(RequestError, match=f"a context of {wrong} frames"):
            context_specs(tiny_model, [wrong])
    with pytest.raises(RequestError, match="no predictor"):
        context_specs(WorldModel(tiny_model.config, tiny_model.encoder, None), [])
