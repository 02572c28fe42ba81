"""Skill is against rules that need no model; a probe is scored on what it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.evaluation.probe import LAMBDAS, grid_pooled, ridge_probe
from orchestrator.evaluation.rollout import roll_out, rollout_table
from orchestrator.evaluation.surprise import View
from orchestrator.jepa.hub import WorldModel
from orchestrator.jepa.pixels import normalise


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


def test_a_model_that_knows_the_future_has_skill_one_and_finds_it(tiny: WorldModel) -> None:
    wanted = tiny.encoder(normalise(torch.from_numpy(clips()), torch.float32))
    oracle = Told(F.layer_norm(wanted, wanted.shape[-1:]))
    model = WorldModel(tiny.config, tiny.encoder, oracle)  # type: ignore[arg-type]
    rows = rollout_table([roll_out(model, clips(), View(4, 0))], 0.95)
    assert [row["tubelets_ahead"] for row in rows] == [1, 2]
    for row in rows:
        assert row["error"]["model"] == pytest.approx(0, abs=1e-6)
        assert row["skill"]["copy"]["value"] == pytest.approx(1)
        assert row["skill"]["copy"]["low"] > 0.99
        assert row["same_clip"]["@1"] == row["cross_clip"]["@1"] == 1
        assert row["same_clip"]["chance@1"] == 0.25
        assert row["cross_clip"]["chance@5"] == 5 / 6


def test_copying_what_was_seen_is_no_skill(tiny: WorldModel) -> None:
    pixels = normalise(torch.from_numpy(clips()), torch.float32)
    seen = tiny.encoder(pixels, torch.arange(32).expand(6, -1))
    known = F.layer_norm(seen, seen.shape[-1:])[:, 16:]
    model = WorldModel(tiny.config, tiny.encoder, Told(known.repeat(1, 4, 1)))  # type: ignore[arg-type]
    for row in rollout_table([roll_out(model, clips(), View(4, 0))], 0.95):
        assert row["skill"]["copy"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(300, 40)), draw.normal(size=(40, 2))
    y = np.column_stack([x @ w[:, 0] + 3, draw.normal(size=300)])
    found = ridge_probe(x[:200], y[:200], x[200:], y[200:])
    assert found.r2[0] > 0.99
    assert found.r2[1] < 0.1


def test_the_penalty_has_the_least_leave_one_out_error() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(30, 50))
    y = x[:, :1] + draw.normal(size=(30, 1))
    found = ridge_probe(x, y, x, y)
    center, scale = x.mean(0), x.std(0)
    whole = (x - center) / scale
    errors = {}
    for strength in LAMBDAS:
        apart = []
        for left in range(30):
            rest = np.delete(np.arange(30), left)
            mean = y[rest].mean(0)
            # The columns' mean is part of the fit: centre again without the row.
            rows = whole[rest] - whole[rest].mean(0)
            gram = rows.T @ rows + strength * np.eye(50)
            weights = np.linalg.solve(gram, rows.T @ (y[rest] - mean))
            guess = (whole[left] - whole[rest].mean(0)) @ weights + mean
            apart.append(((y[left] - guess) ** 2).item())
        errors[strength] = np.mean(apart)
    assert found.strength == min(errors, key=lambda strength: errors[strength])


def test_pooling_keeps_where_things_are() -> None:
    features = np.arange(2 * 8 * 8, dtype=float).reshape(1, 128, 1)
    pooled = grid_pooled(features, (2, 8, 8))
    assert pooled.shape == (1, 2, 16)
    assert pooled[0, 0, 0] == np.mean([0, 1, 8, 9])
    assert pooled[0, 1, 15] == np.mean([64 + 54, 64 + 55, 64 + 62, 64 + 63])
