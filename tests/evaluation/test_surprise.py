"""Surprise is the distance between prediction and outcome, window by window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.surprise import (
    View,
    Windows,
    aggregated,
    curve,
    see,
    surprise,
    views_of,
)
from orchestrator.jepa.model_files import WorldModel, random_model
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from tests.support.tiny import config_of, tiny_job


def videos(count: int, frames: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, frames, 32, 32, 3), dtype=np.uint8)


def test_errors_are_those_of_a_loop_over_tokens(tiny: WorldModel) -> None:
    clip, view = torch.from_numpy(videos(1, 8)), View(context=4, mask=1)
    found = see(tiny, clip, [view]).errors[view][0]
    pixels = normalise(clip, torch.float32)
    assert tiny.predictor is not None
    whole = tiny.encoder(pixels)[0].double()
    seen = list(range(2 * 16))
    hidden = list(range(2 * 16, 4 * 16))
    z = tiny.encoder(pixels, torch.tensor([seen]))
    predicted = tiny.predictor(z, torch.tensor([seen]), torch.tensor([hidden]), 1)[0].double()
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
    assert Windows.over(24, 16, 4, 2).starts == (0, 4, 8)
    assert Windows.over(24, 16, 5, 2).starts == (0, 4, 8)
    assert Windows.over(17, 16, 4, 2).starts == (0, 1)
    with pytest.raises(RequestError, match="12 frames, the model's clip has 16"):
        Windows.over(12, 16, 4, 2)


def test_each_frame_is_judged_by_the_windows_that_predict_it(tiny: WorldModel) -> None:
    windows, view = Windows.over(12, 8, 2, 2), View(4, 0)
    found = surprise(tiny, videos(3), [view], windows)[view]
    assert found.shape == (3, 3, 12)
    for i, start in enumerate(windows.starts):
        unseen = np.isnan(found[:, i])
        assert not unseen[:, start + 4 : start + 8].any()
        assert unseen[:, : start + 4].all()
        clips = torch.from_numpy(videos(3)[:, start : start + 8])
        alone = see(tiny, clips, [view]).errors[view]
        np.testing.assert_allclose(found[:, i, start + 4 : start + 8 : 2], alone[:, 2:], rtol=1e-5)
    by_frame = curve(found)
    assert np.isnan(by_frame[:, :4]).all()
    np.testing.assert_allclose(by_frame[:, 6], np.nanmean(found[:, :2, 6], axis=1), rtol=1e-6)
    each = np.nanmean(found, axis=-1)
    np.testing.assert_allclose(aggregated(found, "mean"), each.mean(1))
    np.testing.assert_allclose(aggregated(found, "max"), each.max(1))


def test_a_model_that_reads_forwards_predicts_each_moment_from_those_before() -> None:
    data = job_dict(tiny_job())
    data["objective"] = {"kind": "causal", "horizons": 2}
    data["model"]["encoder"]["attention"] = "moment"
    job = build_job(data)
    assert isinstance(job, TrainJob)
    model = random_model(config_of(job), 0)
    views = views_of(model, [4])
    assert views == [View(4, 0, 1), View(4, 0, 2)]
    clip = torch.from_numpy(videos(2, 8))
    sight = see(model, clip, views)
    wanted = model.compared(model.encode(clip), clip).view(2, 4, 16, -1)
    for view in views:
        for moment in (2, 3):
            last = moment - view.horizon + 1  # moments that may be seen
            z = model.encode(clip[:, : 2 * last])
            guess = model.foresee(z)[:, : 16 * view.horizon].view(2, view.horizon, 16, -1)[:, -1]
            expected = (guess - wanted[:, moment]).abs().mean((1, 2))
            torch.testing.assert_close(sight.errors[view][:, moment], expected)
        assert sight.errors[view][:, :2].isnan().all()


def test_a_context_that_is_no_part_of_the_clip_is_refused(tiny: WorldModel) -> None:
    assert {view.context for view in views_of(tiny, [])} == {2, 4, 6}
    assert {view.mask for view in views_of(tiny, [4])} == {0, 1}
    for wrong in (3, 8, 10):
        with pytest.raises(RequestError, match=f"a context of {wrong} frames"):
            views_of(tiny, [wrong])
    with pytest.raises(RequestError, match="no predictor"):
        views_of(WorldModel(tiny.config, tiny.encoder, None), [])
