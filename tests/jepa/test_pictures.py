from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.jepa.visualization import feature_pca, mask_overlay

GRID = (4, 4, 4)


def cells(picture: Any, row: int, count: int, cell: int = 128) -> list[Any]:
    """The square cells of one titled row."""
    pixels = np.asarray(picture)
    top = 22 + row * (22 + cell + 6)
    return [
        pixels[top : top + cell, 6 + i * (cell + 6) : 6 + i * (cell + 6) + cell]
        for i in range(count)
    ]


def test_mask_overlay_shows_what_is_seen_and_what_is_asked(video: Tensor) -> None:
    context, target = torch.tensor([0, 21]), torch.arange(32, 64)
    picture = mask_overlay(video[0], [(context, target), (target, context)], GRID)
    assert picture.size == (4 * 134 + 6, 5 * 156)
    frames, seen, asked = (cells(picture, row, 4) for row in range(3))
    # Token 0 is the top left patch of the first tubelet, token 21 the middle of the second.
    assert np.array_equal(seen[0][:32, :32], frames[0][:32, :32])
    assert np.array_equal(seen[1][32:64, 32:64], frames[1][32:64, 32:64])
    hidden = seen[0][:32, 32:]
    assert np.ptp(hidden.astype(int), axis=-1).max() == 0  # grey
    assert hidden.max() < 60
    # Targets are tinted (more red than blue on average), the rest is grey.
    assert np.ptp(asked[0].astype(int), axis=-1).max() == 0
    assert asked[3][..., 0].mean() > asked[3][..., 2].mean() + 20


def test_long_and_large_clips_stay_readable() -> None:
    clip = torch.randint(0, 256, (64, 256, 256, 3), dtype=torch.uint8)
    context = torch.arange(100)
    picture = mask_overlay(clip, [(context, context + 500)], (32, 16, 16))
    assert picture.size == (8 * 198 + 6, 3 * 220)


def test_pca_is_joint_over_the_clip(video: Tensor) -> None:
    # Two kinds of token; the first appears in tubelets 0, 1 and the second in 2, 3.
    tokens = torch.zeros(64, 48)
    tokens[:32, 0], tokens[32:, 0] = 1.0, -1.0
    tokens += 0.01 * torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    strip, frames = feature_pca(video[0], tokens, GRID)
    assert strip.size == (4 * 134 + 6, 2 * 156)
    assert len(frames) == 8
    assert frames[0].size == (2 * 134 + 6, 156)
    colour = [cell[..., 0].mean() for cell in cells(strip, 1, 4)]
    assert abs(colour[0] - colour[1]) < 5
    assert abs(colour[2] - colour[3]) < 5
    assert abs(colour[0] - colour[2]) > 200
    assert np.array_equal(cells(frames[7], 0, 2)[1], cells(strip, 1, 4)[3])


@pytest.mark.parametrize("width", [2, 48])
def test_pca_of_collapsed_features_is_a_picture_too(video: Tensor, width: int) -> None:
    strip, _ = feature_pca(video[0], torch.ones(64, width), GRID)
    assert strip.size == (542, 312)
