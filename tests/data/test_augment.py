"""Crops are of the sizes that were asked for, inside the frame; a user's own part is obeyed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import BaseModel

from orchestrator.data.loader.augment import build_frame_reader, sample_crop
from orchestrator.errors import RequestError
from orchestrator.job import CropFlip, Data
from tests.support.clips import small_video


@pytest.mark.parametrize(("width", "height"), [(456, 256), (240, 426), (64, 64)])
def test_crops_lie_inside_and_follow_the_config(width: float, height: float) -> None:
    config = CropFlip(scale=(0.2, 0.5), aspect=(0.8, 1.25), flip=0.25)
    rng = np.random.default_rng(0)
    crops = [sample_crop(config, rng, width, height) for _ in range(3000)]
    for crop in crops:
        assert 0 <= crop.x <= width - crop.width + 1e-9
        assert 0 <= crop.y <= height - crop.height + 1e-9
        assert 0.8 - 1e-9 <= crop.width / crop.height <= 1.25 + 1e-9
    areas = np.array([c.width * c.height for c in crops]) / (width * height)
    assert areas.min() >= 0.2 - 1e-9
    assert areas.max() <= 0.5 + 1e-9
    assert np.mean([c.hflip for c in crops]) == pytest.approx(0.25, abs=0.04)
    # As often wide as tall: the aspect is even in its logarithm.
    wide = np.mean([math.log(c.width / c.height) > 0 for c in crops])
    assert wide == pytest.approx(0.5, abs=0.1)


def test_where_no_draw_fits_the_largest_middle_box_is_taken() -> None:
    config = CropFlip(scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0)
    crop = sample_crop(config, np.random.default_rng(0), 400, 100)
    assert (crop.x, crop.y, crop.width, crop.height) == (150, 0, 100, 100)


class Inverted:
    """A user's augmentation: corner of the whole frames, inverted, with its own options."""

    class Config(BaseModel):
        """Its keys."""

        top: int = 0

    def __init__(self, config: Config, size: int) -> None:
        self.top, self.size = config.top, size

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert frames.shape[1:] == (32, 32, 3)
        return 255 - frames[:, self.top : self.top + self.size, : self.size]


def test_a_part_of_ones_own_gets_whole_frames() -> None:
    times, payload = np.arange(4) / 4.0, small_video()
    plain = build_frame_reader(
        Data(source="x", size=16, augment={"kind": "test_augment:Inverted"})  # type: ignore[arg-type]
    )
    lower = build_frame_reader(
        Data(source="x", size=16, augment={"kind": "test_augment:Inverted", "top": 16})  # type: ignore[arg-type]
    )
    out = np.zeros((2, 4, 16, 16, 3), np.uint8)
    plain(payload, times, np.random.default_rng(0), out[0])
    lower(payload, times, np.random.default_rng(0), out[1])
    assert out.any()
    assert not np.array_equal(out[0], out[1])


def test_a_part_that_returns_another_shape_is_told_so() -> None:
    cut = build_frame_reader(
        Data(source="x", size=16, augment={"kind": "test_augment:Inverted", "top": 24})  # type: ignore[arg-type]
    )
    out = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(RequestError, match=r"returned uint8 \[4, 8, 16, 3\]"):
        cut(small_video(), np.arange(4) / 4.0, np.random.default_rng(0), out)
