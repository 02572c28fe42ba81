"""Draws a contact sheet: clips as a training job reads them, with crops and masks."""

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
    """One clip of a contact sheet."""

    job: TrainJob
    """The job with the clip spec of the clip's source."""

    title: str
    payload: bytes
    duration_s: float
    order_position: int
    """Position of the order whose draws (start, crop, flip, masks) are shown."""

    video_frames: int
    video_fps: float


def contact_sheet(clips: list[SheetClip]) -> Image.Image:
    """Draw each clip as stored, with its crop, and below it the model's input with the masks.

    Start, crop, flip and masks are those that the job draws at the clip's position. For a clip
    that cannot be decoded the reason is shown.
    """
    strips = [strip for clip in clips for strip in _render_clip(clip)]
    width = max(strip.width for strip in strips)
    page = Image.new("RGB", (width, sum(strip.height for strip in strips)), BACKGROUND)
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height
    return page


def _render_clip(clip: SheetClip) -> list[Image.Image]:
    job, data, position = clip.job, clip.job.data, clip.order_position
    rng = generator(job.seed, position, "clip")
    try:
        if data.actions is None:
            times = sample_frame_times(rng, clip.duration_s, data.frames, data.fps)
        else:
            times = sample_frame_indices(rng, clip.video_frames, clip.video_fps, data)
        frames = decode_clip(clip.payload, times)
        model_input = np.empty((data.frames, data.size, data.size, 3), np.uint8)
        build_frame_reader(data)(
            clip.payload, times, generator(job.seed, position, "augment"), model_input
        )
    except DataError as error:
        return [_render_strip(f"{clip.title}: {error.what}", [], None)]
    height, width = frames.shape[1:3]
    box = None
    if isinstance(data.augment, CropFlip):
        box = sample_crop(data.augment, generator(job.seed, position, "augment"), width, height)
    title = f"{clip.title}: {clip.duration_s:.1f} s, {width}x{height}"
    if box:
        title += f", crop {box.width:.0f}x{box.height:.0f}" + (", mirrored" if box.hflip else "")
    masks = [
        sampler(generator(job.seed, position, "masks", part))
        for part, sampler in enumerate(build_mask_samplers(job))
    ]
    mask_tensors = [(torch.from_numpy(c), torch.from_numpy(t)) for c, t in masks]
    selected = frames[
        np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    ]
    return [
        _render_strip(title, list(selected), box),
        mask_overlay(torch.from_numpy(model_input), mask_tensors, job.grid),
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
    """A frame scaled to a height of `_FRAME_HEIGHT` pixels, with the crop outlined."""
    scale = _FRAME_HEIGHT / frame.shape[0]
    image = Image.fromarray(frame).resize((max(1, round(frame.shape[1] * scale)), _FRAME_HEIGHT))
    if box:
        corners = (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1)
        ImageDraw.Draw(image).rectangle([c * scale for c in corners], outline=_CROP_COLOR, width=2)
    return image
