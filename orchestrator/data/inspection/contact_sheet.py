"""A contact sheet: clips as a training would cut them, where the crop lies, what masks hide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from orchestrator.data.codec.decode import Crop, clip_times, decode_clip
from orchestrator.data.loader.action_data import clip_frames
from orchestrator.data.loader.augment import build_cutter, draw_crop
from orchestrator.errors import DataError
from orchestrator.jepa.masks import build_masks
from orchestrator.jepa.visualization import BACKGROUND, COLUMNS, GAP, INK, TITLE, mask_overlay
from orchestrator.job import CropFlip, TrainJob
from orchestrator.randomness import generator

_CELL = 128
_BOX = (90, 220, 120)


@dataclass(frozen=True)
class SheetClip:
    """One clip to show: the job as its source is cut, its payload, how long it lasts, the position
    it is drawn for, and its frames and their rate."""

    job: TrainJob
    title: str
    payload: bytes
    duration_s: float
    position: int
    frames: int
    fps: float


def contact_sheet(clips: list[SheetClip]) -> Image.Image:
    """Each clip as it is stored, with its crop; below it the masks over what the model sees.

    The start, the crop, the flip and the masks are those that a training draws at the clip's
    position. A clip that cannot be decoded is shown as its reason.
    """
    blocks = [block for clip in clips for block in _blocks(clip)]
    width = max(block.width for block in blocks)
    page = Image.new("RGB", (width, sum(block.height for block in blocks)), BACKGROUND)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height
    return page


def _blocks(clip: SheetClip) -> list[Image.Image]:
    job, data, position = clip.job, clip.job.data, clip.position
    rng = generator(job.seed, position, "clip")
    try:
        if data.act is None:
            times = clip_times(rng, clip.duration_s, data.frames, data.fps)
        else:
            times = clip_frames(rng, clip.frames, clip.fps, data)
        whole = decode_clip(clip.payload, times)
        seen = np.empty((data.frames, data.size, data.size, 3), np.uint8)
        build_cutter(data)(clip.payload, times, generator(job.seed, position, "augment"), seen)
    except DataError as error:
        return [_strip(f"{clip.title}: {error.what}", [], None)]
    height, width = whole.shape[1:3]
    box = None
    if isinstance(data.augment, CropFlip):
        box = draw_crop(data.augment, generator(job.seed, position, "augment"), width, height)
    facts = f"{clip.title}: {clip.duration_s:.1f} s, {width}x{height}"
    if box:
        facts += f", crop {box.width:.0f}x{box.height:.0f}" + (", mirrored" if box.flip else "")
    masks = [
        sampler(generator(job.seed, position, "masks", part))
        for part, sampler in enumerate(build_masks(job))
    ]
    drawn = [(torch.from_numpy(c), torch.from_numpy(t)) for c, t in masks]
    shown = whole[np.linspace(0, len(whole) - 1, min(COLUMNS, len(whole))).round().astype(int)]
    return [
        _strip(facts, list(shown), box),
        mask_overlay(torch.from_numpy(seen), drawn, job.grid),
    ]


def _strip(title: str, frames: list[np.ndarray], box: Crop | None) -> Image.Image:
    cells = [_cell(frame, box) for frame in frames]
    width = max(sum(cell.width + GAP for cell in cells) + GAP, 8 * len(title))
    page = Image.new("RGB", (width, TITLE + (_CELL + GAP if cells else GAP)), BACKGROUND)
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(page).text((GAP, 4), title, fill=INK, font=font)
    left = GAP
    for cell in cells:
        page.paste(cell, (left, TITLE))
        left += cell.width + GAP
    return page


def _cell(frame: np.ndarray, box: Crop | None) -> Image.Image:
    """A frame of `_CELL` pixels' height, the crop outlined."""
    scale = _CELL / frame.shape[0]
    picture = Image.fromarray(frame).resize((max(1, round(frame.shape[1] * scale)), _CELL))
    if box:
        corners = (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1)
        ImageDraw.Draw(picture).rectangle([c * scale for c in corners], outline=_BOX, width=2)
    return picture
