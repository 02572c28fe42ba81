"""Skill is against rules that need no model; a probe is scored on what it has not seen."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.evaluation.benchmarks.rollout_summary import skill_over_baseline
from orchestrator.evaluation.measures.ridge import pool_to_grid, ridge_probe
from orchestrator.evaluation.measures.rollout import rollout_clips, rollout_table
from orchestrator.evaluation.measures.surprise import ContextSpec
from orchestrator.jepa.model_files import WorldModel
from orchestrator.jepa.pixel_normalization import normalise
from tests.support.known_models import CONTEXT, FRAMES, SIZE, FrameDifference


class Told(nn.Module):
    """A predictor that answers what it was told."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.mask_tokens = nn.Parameter(torch.zeros(1, 1))

    def forward(self, z: Tensor, context: Tensor, target: Tensor, mask: int = 0) -> Tensor:
        return self.answer.gather(1, target[..., None].expand(-1, -1, self.answer.shape[-1]))


def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 32, 32, 3), dtype=np.uint8)


def test_a_model_that_knows_the_future_has_skill_one_and_finds_it(tiny_model: WorldModel) -> None:
    wanted = tiny_model.encoder(normalise(torch.from_numpy(clips()), torch.float32))
    oracle = Told(F.layer_norm(wanted, wanted.shape[-1:]))
    model = WorldModel(tiny_model.config, tiny_model.encoder, oracle)  # type: ignore[arg-type]
    rows = rollout_table([rollout_clips(model, clips(), ContextSpec(4, 0))], 0.95)
    assert [row["tubelets_ahead"] for row in rows] == [1, 2]
    for row in rows:
        assert row["error"]["model"] == pytest.approx(0, abs=1e-6)
        assert row["skill"]["copy"]["value"] == pytest.approx(1)
        assert row["skill"]["copy"]["low"] > 0.99
        assert row["same_clip"]["@1"] == row["cross_clip"]["@1"] == 1
        assert row["same_clip"]["chance@1"] == 0.25
        assert row["cross_clip"]["chance@5"] == 5 / 6


def test_copying_what_was_seen_is_no_skill(tiny_model: WorldModel) -> None:
    pixels = normalise(torch.from_numpy(clips()), torch.float32)
    seen = tiny_model.encoder(pixels, torch.arange(32).expand(6, -1))
    known = F.layer_norm(seen, seen.shape[-1:])[:, 16:]
    model = WorldModel(tiny_model.config, tiny_model.encoder, Told(known.repeat(1, 4, 1)))  # type: ignore[arg-type]
    for row in rollout_table([rollout_clips(model, clips(), ContextSpec(4, 0))], 0.95):
        assert row["skill"]["copy"]["value"] == pytest.approx(0, abs=1e-6)


class Off(FrameDifference):
    """It expects a little change where nothing changes."""

    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        return super().foresee(features, mask) + 0.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("moving", [0, 1])
def test_where_a_rule_makes_no_error_skill_is_a_number_all_the_same(moving: int) -> None:
    """Of still videos, or by a collapsed model, features do not change: to copy them is exact."""
    films = np.full((6, FRAMES, SIZE, SIZE, 3), 90, np.uint8)
    films[:moving, 8:] = 200  # one clip is not still: then some resamples are exact, and some not

    def skills(model: FrameDifference) -> list[dict[str, Any]]:
        rolled = [rollout_clips(model, films, ContextSpec(CONTEXT, 0))]
        json.dumps(
            [skill_over_baseline(rolled, "copy", 0.95).value, rollout_table(rolled, 0.95)],
            allow_nan=False,
        )
        return [row["skill"]["copy"] for row in rollout_table(rolled, 0.95)]

    for found in skills(FrameDifference("no change")):
        assert found == {"value": 0, "low": 0, "high": 0}, "as exact as the rule"
    assert all(found["value"] < 0 for found in skills(Off("no change")))


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(300, 40)), draw.normal(size=(40, 2))
    y = np.column_stack([x @ w[:, 0] + 3, draw.normal(size=300)])
    found = ridge_probe(x[:200], y[:200], np.arange(200) // 4, x[200:], y[200:])
    assert found.r2[0] > 0.99
    assert -0.1 < found.r2[1] < 0.1


def test_rows_of_one_video_do_not_vouch_for_each_other() -> None:
    """Features that only name the video say nothing of another: the strongest penalty is best."""
    draw = np.random.default_rng(1)
    videos = np.repeat(np.arange(20), 10)
    names = draw.normal(size=(20, 60))[videos] + 0.01 * draw.normal(size=(200, 60))
    state = draw.normal(size=(20, 1))[videos]
    fresh, truth = draw.normal(size=(100, 60)), draw.normal(size=(100, 1))
    by_video = ridge_probe(names, state, videos, fresh, truth)
    by_row = ridge_probe(names, state, np.arange(200), fresh, truth)
    assert by_video.penalty[0] > 10 * by_row.penalty[0]
    assert by_video.r2[0] > max(-0.1, by_row.r2[0])


def test_pooling_keeps_where_things_are() -> None:
    features = np.arange(2 * 8 * 8, dtype=float).reshape(1, 128, 1)
    pooled = pool_to_grid(features, (2, 8, 8))
    assert pooled.shape == (1, 2, 16)
    assert pooled[0, 0, 0] == np.mean([0, 1, 8, 9])
    assert pooled[0, 1, 15] == np.mean([64 + 54, 64 + 55, 64 + 62, 64 + 63])
