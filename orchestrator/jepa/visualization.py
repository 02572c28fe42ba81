"""Pictures for a person: what a mask hides in a clip, and what the features see over time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Grid = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]
Row = tuple[str, list[Pixels]]

BACKGROUND = (17, 19, 24)
TEXT_COLOR = (222, 226, 232)
TARGET_TINT = np.array([255, 138, 48], dtype=np.float32)
MIN_CELL, MAX_CELL = 128, 192
COLUMNS = 8
GAP, TITLE = 6, 22


def mask_overlay(clip: Tensor, masks: list[tuple[Tensor, Tensor]], grid: Grid) -> Image.Image:
    """A clip over time, and below it what each mask shows and what it asks for.

    Args:
        clip: uint8 [T, H, W, 3].
        masks: context ids [n_c] and target ids [n_t] of each mask.
        grid: tokens along time, height and width.

    Returns:
        One row of frames, then two rows per mask; at most 8 tubelets, evenly spread.
    """
    times = _shown_timesteps(grid[0])
    frames = [_first_frame_of_tubelet(clip, t, grid) for t in times]
    rows: list[Row] = [(f"clip: {len(clip)} frames, {grid[0]} tubelets", frames)]
    for i, (context, target) in enumerate(masks, start=1):
        shown, asked = _on_grid(context, grid), _on_grid(target, grid)
        share = 100 / shown.size
        rows.append(
            (
                f"mask {i}: context, {len(context)} tokens ({len(context) * share:.0f}%)",
                [_hide(f, ~shown[t]) for f, t in zip(frames, times, strict=True)],
            )
        )
        rows.append(
            (
                f"mask {i}: targets, {len(target)} tokens ({len(target) * share:.0f}%)",
                [_tint(f, asked[t]) for f, t in zip(frames, times, strict=True)],
            )
        )
    return _sheet(rows)


def feature_pca(clip: Tensor, tokens: Tensor, grid: Grid) -> tuple[Image.Image, list[Image.Image]]:
    """Patch features as colours: their first three principal components over the whole clip.

    One PCA for all times, so that a colour means the same thing throughout.

    Args:
        clip: uint8 [T, H, W, 3].
        tokens: features [N, dim] of all tokens of the clip.
        grid: tokens along time, height and width.

    Returns:
        A strip of at most 8 tubelets, and one frame per frame of the clip for a GIF.
    """
    colours = _principal_colours(tokens.float().cpu()).reshape(*grid, 3)
    times = _shown_timesteps(grid[0])
    strip = _sheet(
        [
            ("clip", [_first_frame_of_tubelet(clip, t, grid) for t in times]),
            ("features: principal components 1-3", [_enlarge(colours[t], clip) for t in times]),
        ]
    )
    pixels = clip.cpu().numpy()
    moving = [
        _sheet([("clip and features", [_resized(frame, _cell(clip)), _enlarge(colours[t], clip)])])
        for i, frame in enumerate(pixels)
        for t in [i * grid[0] // len(pixels)]
    ]
    return strip, moving


def _principal_colours(tokens: Tensor) -> Pixels:
    """float32 [N, dim] -> RGB uint8 [N, 3]; each component spans its 1st to 99th percentile."""
    tokens = tokens.double()  # the squares of large float32 numbers overflow
    centred = tokens - tokens.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary; fix it, so that pictures of one model compare.
    peak = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    scores = (centred @ (axes * peak.sign())).numpy()
    low, high = np.percentile(scores, (1, 99), axis=0)
    unit = np.clip((scores - low) / np.maximum(high - low, 1e-8), 0, 1)
    rgb: Pixels = (unit * 255).round().astype(np.uint8)
    if rgb.shape[1] < 3:  # fewer than three channels of features
        rgb = np.pad(rgb, ((0, 0), (0, 3 - rgb.shape[1])))
    return rgb


def _shown_timesteps(duration: int) -> list[int]:
    """Tubelets to show: all of them, or 8 that are evenly spread from first to last."""
    evenly = np.linspace(0, duration - 1, min(duration, COLUMNS))
    return [int(t) for t in evenly.round()]


def _cell(clip: Tensor) -> int:
    return min(MAX_CELL, max(MIN_CELL, clip.shape[1]))


def _resized(frame: Pixels, cell: int) -> Pixels:
    return np.asarray(Image.fromarray(frame).resize((cell, cell), Image.Resampling.BICUBIC))


def _enlarge(colours: Pixels, clip: Tensor) -> Pixels:
    return _resized(colours, _cell(clip))


def _first_frame_of_tubelet(clip: Tensor, t: int, grid: Grid) -> Pixels:
    """The first frame of tubelet `t`, at the size it is shown."""
    return _resized(clip[t * len(clip) // grid[0]].cpu().numpy(), _cell(clip))


def _on_grid(ids: Tensor, grid: Grid) -> npt.NDArray[np.bool_]:
    flags = np.zeros(grid, dtype=bool)
    flags.reshape(-1)[ids.cpu().numpy()] = True
    return flags


def _patches(flags: npt.NDArray[np.bool_], cell: int) -> npt.NDArray[np.bool_]:
    """[H, W] patches as [cell, cell, 1] pixels."""
    rows = np.arange(cell) * flags.shape[0] // cell
    columns = np.arange(cell) * flags.shape[1] // cell
    shown: npt.NDArray[np.bool_] = flags[rows][:, columns, None]
    return shown


def _hide(frame: Pixels, hidden: npt.NDArray[np.bool_]) -> Pixels:
    dark = np.uint8(frame.mean(-1, keepdims=True) * 0.10 + 26)
    return np.where(_patches(hidden, len(frame)), dark, frame)


def _tint(frame: Pixels, asked: npt.NDArray[np.bool_]) -> Pixels:
    grey = frame.mean(-1, keepdims=True)
    tinted = 0.45 * frame + 0.55 * TARGET_TINT * (0.25 + 0.75 * grey / 255)
    faded = np.broadcast_to(grey * 0.35 + 20, frame.shape)
    return np.where(_patches(asked, len(frame)), tinted, faded).astype(np.uint8)


def _sheet(rows: list[Row]) -> Image.Image:
    """Titled rows of equal square cells on a dark page."""
    cell = len(rows[0][1][0])
    width = max(len(cells) for _, cells in rows) * (cell + GAP) + GAP
    page = Image.new("RGB", (width, len(rows) * (TITLE + cell + GAP)), BACKGROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for i, (title, cells) in enumerate(rows):
        top = i * (TITLE + cell + GAP)
        draw.text((GAP, top + 4), title, fill=TEXT_COLOR, font=font)
        for j, pixels in enumerate(cells):
            page.paste(Image.fromarray(pixels), (GAP + j * (cell + GAP), top + TITLE))
    return page
