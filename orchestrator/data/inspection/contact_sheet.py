"""A contact sheet: clips as a training would cut them, where the crop lies, what masks hide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from orchestrator.data.codec.decode import Crop, decode_clip, sample_frame_times
from orchestrator.data.loader.action_data import sample_frame_indices
from orchestrator.data.loader.augment import build_frame_reader, sample_crop
from orchestrator.errors import DataError
from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.jepa.visualization import (
    BACKGROUND,
    COLUMNS,
    GAP,
    TEXT_COLOR,
    TITLE,
    mask_overlay,
)
from orchestrator.job import CropFlip, TrainJob
from orchestrator.randomness import generator

_FRAME_HEIGHT = 128
_CROP_COLOR = (90, 220, 120)


@dataclass(frozen=True)
class SheetClip:
    """One clip to show: the job as its source is cut, its payload, how long it lasts, the position
    it is drawn for, and its frames and their rate."""

    job: TrainJob
    title: str
    payload: bytes
    duration_s: float
    order_position: int
    video_frames: int
    video_fps: float


def contact_sheet(clips: list[SheetClip]) -> Image.Image:
    """Each clip as it is stored, with its crop; below it the masks over what the model sees.

    The start, the crop, the flip and the masks are those that a training draws at the clip's
    position. A clip that cannot be decoded is shown as its reason.
    """
    blocks = [block for clip in clips for block in _render_clip(clip)]
    width = max(block.width for block in blocks)
    page = Image.new("RGB", (width, sum(block.height for block in blocks)), BACKGROUND)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height
    return page


def _render_clip(clip: SheetClip) -> list[Image.Image]:
    job, data, position = clip.job, clip.job.data, clip.order_position
    rng = generator(job.seed, position, "clip")
    try:
        if data.actions is None:
            times = sample_frame_times(rng, clip.duration_s, data.frames, data.fps)
        else:
            times = sample_frame_indices(rng, clip.video_frames, clip.video_fps, data)
        whole = decode_clip(clip.payload, times)
        seen = np.empty((data.frames, data.size, data.size, 3), np.uint8)
        build_frame_reader(data)(
            clip.payload, times, generator(job.seed, position, "augment"), seen
        )
    except DataError as error:
        return [_render_strip(f"{clip.title}: {error.what}", [], None)]
    height, width = whole.shape[1:3]
    box = None
    if isinstance(data.augment, CropFlip):
        box = sample_crop(data.augment, generator(job.seed, position, "augment"), width, height)
    facts = f"{clip.title}: {clip.duration_s:.1f} s, {width}x{height}"
    if box:
        facts += f", crop {box.width:.0f}x{box.height:.0f}" + (", mirrored" if box.hflip else "")
    masks = [
        sampler(generator(job.seed, position, "masks", part))
        for part, sampler in enumerate(build_mask_samplers(job))
    ]
    drawn = [(torch.from_numpy(c), torch.from_numpy(t)) for c, t in masks]
    shown = whole[np.linspace(0, len(whole) - 1, min(COLUMNS, len(whole))).round().astype(int)]
    return [
        _render_strip(facts, list(shown), box),
        mask_overlay(torch.from_numpy(seen), drawn, job.grid),
    ]


def _render_strip(title: str, frames: list[np.ndarray], box: Crop | None) -> Image.Image:
    cells = [_render_frame(frame, box) for frame in frames]
    width = max(sum(cell.width + GAP for cell in cells) + GAP, 8 * len(title))
    page = Image.new("RGB", (width, TITLE + (_FRAME_HEIGHT + GAP if cells else GAP)), BACKGROUND)
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(page).text((GAP, 4), title, fill=TEXT_COLOR, font=font)
    left = GAP
    for cell in cells:
        page.paste(cell, (left, TITLE))
        left += cell.width + GAP
    return page


def _render_frame(frame: np.ndarray, box: Crop | None) -> Image.Image:
    """A frame of `_FRAME_HEIGHT` pixels' height, the crop outlined."""
    scale = _FRAME_HEIGHT / frame.shape[0]
    picture = Image.fromarray(frame).resize((max(1, round(frame.shape[1] * scale)), _FRAME_HEIGHT))
    if box:
        corners = (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1)
        ImageDraw.Draw(picture).rectangle(
            [c * scale for c in corners], outline=_CROP_COLOR, width=2
        )
    return picture
