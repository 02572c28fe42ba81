"""Numpy renderer, anti-aliased by signed distances; each body is drawn in its own window.

A thing is drawn at all times at once: its windows `[T, h, w]` are cut out of the frames,
blended and put back, so that numpy's cost per call is paid once per thing and not per frame.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import (
    VIEW_METERS,
    Background,
    Colour,
    Floats,
    RigidBody,
    Scene,
    edge_half_planes,
    rectangle_vertices,
)

OUTLINE_WIDTH = 0.09  # metres of outline
BALL_MARK_HALF_WIDTH, POLYGON_MARK_HALF_WIDTH = (
    0.3,
    0.16,
)  # half a mark's width relative to the body's size


def render(
    scene: Scene, poses: npt.NDArray[np.float64], size: int
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Render a scene over time.

    Args:
        poses: `[T, objects, >= 3]`: x, y (metres), angle (radians).
        size: pixels of the square picture.

    Returns:
        frames: uint8 `[T, size, size, 3]`.
        visible: float32 `[T, objects]`, the share of each thing that can be seen, from 0
            (behind a screen, or out of the picture) to 1.
    """
    frames, seen = _render_static(scene, size, len(poses))
    for hung, anchor in scene.pendulum_anchors:
        _draw_string(frames, poses[:, hung], anchor, scene)
    visible = np.empty(poses.shape[:2], np.float32)
    for number, thing in enumerate(scene.things):
        covered = _draw_body(frames, seen, thing, poses[:, number], scene.outline_brightness)
        visible[:, number] = covered / (thing.area * (size / VIEW_METERS) ** 2)
    return frames, np.clip(visible, 0, 1)


def _render_static(scene: Scene, size: int, count: int) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Frames without things, uint8 `[count, size, size, 3]`, and where no screen hides, float32
    `[size, size]`.

    The screens are part of the picture: things are drawn later, but never over them.
    """
    frames = np.empty((count, size, size, 3), np.uint8)
    if scene.background.kind != "moving":
        picture = _draw_background(scene.background, size)
        seen, _ = _draw_static(picture, scene, size)
        frames[:] = np.rint(picture * 255).astype(np.uint8)
        return frames, seen
    built = np.zeros((size, size, 3), np.float32)
    seen, through = _draw_static(built, scene, size)
    for number in range(count):
        behind = _moving_texture(scene.background, size, number)
        frames[number] = np.rint((built + through[..., None] * behind) * 255).astype(np.uint8)
    return frames, seen


def _draw_static(picture: Floats, scene: Scene, size: int) -> tuple[Floats, Floats]:
    """Paint solids and screens into `picture`. Gives where no screen hides, and how much of the
    backdrop is seen, both float32 `[size, size]`."""
    through, seen = np.ones((size, size), np.float32), np.ones((size, size), np.float32)
    for solid in scene.solids:
        through *= 1 - _fill_polygon(picture, solid.vertices, solid.colour, rim=1)
    for screen in scene.screens:
        corners = rectangle_vertices(screen.left, screen.bottom, screen.right, screen.top)
        clear = 1 - _fill_polygon(picture, corners, screen.colour, scene.outline_brightness)
        seen, through = seen * clear, through * clear
    return seen, through


def _moving_texture(backdrop: Background, size: int, number: int) -> Floats:
    """A moving texture in one frame, float32 `[size, size, 3]` in [0, 1]."""
    line = (np.arange(size) + 0.5) / size
    share = np.zeros((size, size))
    for grain, (along_x, along_y) in zip(
        backdrop.texture_grid, backdrop.drift_per_frame * number, strict=True
    ):
        cells = len(grain)
        rows, row_part = _periodic_cells(line * cells - along_y, cells)
        columns, column_part = _periodic_cells(line * cells - along_x, cells)
        tall = grain[rows[0]] * (1 - row_part)[:, None] + grain[rows[1]] * row_part[:, None]
        share += tall[:, columns[0]] * (1 - column_part) + tall[:, columns[1]] * column_part
    first, second = map(_rgb, backdrop.colours)
    mix = (share / len(backdrop.texture_grid))[..., None].astype(np.float32)
    return np.asarray(first + mix * (second - first), np.float32)


def _periodic_cells(
    at: npt.NDArray[np.floating], cells: int
) -> tuple[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]], npt.NDArray[np.floating]]:
    """The two cells around each position, and the interpolation weight of the second."""
    low = np.floor(at)
    first = low.astype(np.intp) % cells
    return (first, (first + 1) % cells), at - low


def _fill_polygon(
    picture: Floats, corners: npt.NDArray[np.float64], colour: Colour, rim: float
) -> Floats:
    """Draw a static polygon into `picture`; returns its coverage `[size, size]`."""
    size = len(picture)
    scale = size / VIEW_METERS
    x = (np.arange(size, dtype=np.float32) + 0.5)[None, :]
    y = (size - 0.5 - np.arange(size, dtype=np.float32))[:, None]
    distance = np.full((size, size), -np.inf, np.float32)
    for nx, ny, d in edge_half_planes(corners).astype(np.float32):
        np.maximum(distance, nx * x + ny * y - d * scale, out=distance)
    cover = np.clip(0.5 - distance, 0, 1)
    inner = np.clip(0.5 - distance - OUTLINE_WIDTH * scale, 0, 1)[..., None]
    fill, edge = _rgb(colour), outline_colour(colour, rim)
    picture += cover[..., None] * (edge + inner * (fill - edge) - picture)
    return np.asarray(cover)


def _draw_background(backdrop: Background, size: int) -> Floats:
    """Float32 `[size, size, 3]` in [0, 1]."""
    line = (np.arange(size) + 0.5) / size
    if backdrop.kind == "gradient":
        c, s = np.cos(backdrop.gradient_angle), np.sin(backdrop.gradient_angle)
        share = 0.5 + ((line[None, :] - 0.5) * c + (line[:, None] - 0.5) * s) / (abs(c) + abs(s))
    elif backdrop.kind == "texture":
        share = _bilinear(backdrop.texture_grid, line)
    else:
        share = np.zeros((size, size))
    first, second = map(_rgb, backdrop.colours)
    return np.asarray(first + share[..., None].astype(np.float32) * (second - first), np.float32)


def _bilinear(
    grain: npt.NDArray[np.float64], line: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """A coarse grid `[k, k]` interpolated bilinearly at `line` x `line`."""
    at = line * (len(grain) - 1)
    low = np.minimum(at.astype(int), len(grain) - 2)
    part = at - low
    rows = grain[low] * (1 - part)[:, None] + grain[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def _rgb(colour: Colour) -> Floats:
    return np.asarray(colour, np.float32)


def outline_colour(colour: Colour, outline_brightness: float) -> Floats:
    """The outline's colour: darker for a brightness below 1, towards white above."""
    fill = _rgb(colour)
    return np.asarray(
        fill * outline_brightness
        if outline_brightness < 1
        else 1 - (1 - fill) / np.float32(outline_brightness),
        np.float32,
    )


class _BodyWindow:
    """A window of fixed size that follows a body through the frames, inside the image."""

    def __init__(self, x: Floats, y: Floats, half: tuple[float, float], size: int) -> None:
        width = min(size, int(np.ceil(2 * half[0])) + 3)
        height = min(size, int(np.ceil(2 * half[1])) + 3)
        self.left = np.clip(np.floor(x - width / 2).astype(int), 0, size - width)
        self.top = np.clip(np.floor(y - height / 2).astype(int), 0, size - height)
        self.width, self.height = width, height
        columns = np.arange(width, dtype=np.float32) + 0.5
        rows = np.arange(height, dtype=np.float32) + 0.5
        # Offsets from the body's centre, in pixels: x right, y up.
        self.x = (columns[None, :] + (self.left - x)[:, None]).astype(np.float32)
        self.y = ((y - self.top)[:, None] - rows[None, :]).astype(np.float32)

    def signed_distance(self, nx: Floats, ny: Floats, shift: float = 0.0) -> Floats:
        """nx * x + ny * y - shift at every pixel, `[T, h, w]`; nx and ny are `[T]`."""
        across = (ny[:, None] * self.y - np.float32(shift))[:, :, None]
        return np.asarray((nx[:, None] * self.x)[:, None, :] + across)

    def views(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A writeable view `[T, H', W', h, w, 3]` of every window position."""
        view = np.lib.stride_tricks.sliding_window_view(
            pictures, (self.height, self.width), axis=(1, 2), writeable=True
        )
        return view.transpose(0, 1, 2, 4, 5, 3)


def _blend(
    frames: npt.NDArray[np.uint8], window: _BodyWindow, layers: list[Floats], colours: list[Floats]
) -> None:
    """Composite layers over the frames: the first is the coverage, later ones recolour parts.

    layers: `[T, h, w]` in [0, 1], each inside the one before; colours: their RGB.
    """
    steps = [colours[0], *(b - a for a, b in itertools.pairwise(colours))]
    weights = np.stack([layer.ravel() for layer in layers], axis=1)
    paint = weights @ (np.stack(steps) * 255).astype(np.float32)
    keep = 1 - np.repeat(layers[0].ravel(), 3)
    every = np.arange(len(frames))
    view = window.views(frames)
    patch = view[every, window.top, window.left]
    mixed = patch.reshape(-1) * keep
    mixed += paint.reshape(-1)
    mixed += 0.5
    view[every, window.top, window.left] = mixed.astype(np.uint8).reshape(patch.shape)


def _draw_body(
    frames: npt.NDArray[np.uint8],
    seen: Floats,
    thing: RigidBody,
    poses: npt.NDArray[np.float64],
    rim: float,
) -> Floats:
    """Draw one body in all frames; returns its visible area in pixels, `[T]`."""
    size = frames.shape[1]
    scale = size / VIEW_METERS
    x = (poses[:, 0] * scale).astype(np.float32)
    y = (size - poses[:, 1] * scale).astype(np.float32)
    cos, sin = np.cos(poses[:, 2]).astype(np.float32), np.sin(poses[:, 2]).astype(np.float32)
    window = _BodyWindow(x, y, _half_extent(thing, cos, sin, scale), size)
    distance = _signed_distance(thing, window, cos, sin, scale)
    cover = np.clip(0.5 - distance, 0, 1)
    if seen.min() < 1:
        mask = np.lib.stride_tricks.sliding_window_view(seen, (window.height, window.width))
        cover *= mask[window.top, window.left]
    inner = np.clip(0.5 - OUTLINE_WIDTH * scale - distance, 0, 1)
    np.minimum(inner, cover, out=inner)
    layers, colours = [cover, inner], [outline_colour(thing.colour, rim), _rgb(thing.colour)]
    if thing.marking != "plain":
        layers.append(inner * _mark_coverage(thing, window, cos, sin, scale))
        colours.append(_rgb(thing.mark_colour))
    _blend(frames, window, layers, colours)
    return np.asarray(cover.sum(axis=(1, 2)))


def _half_extent(thing: RigidBody, cos: Floats, sin: Floats, scale: float) -> tuple[float, float]:
    """The body's largest extent from its centre along x and y, in pixels."""
    if thing.corners is None:
        return thing.size * scale, thing.size * scale
    cx, cy = thing.corners[:, 0].astype(np.float32), thing.corners[:, 1].astype(np.float32)
    wide = np.abs(cos[:, None] * cx - sin[:, None] * cy).max()
    high = np.abs(sin[:, None] * cx + cos[:, None] * cy).max()
    return float(wide) * scale, float(high) * scale


def _signed_distance(
    thing: RigidBody, window: _BodyWindow, cos: Floats, sin: Floats, scale: float
) -> Floats:
    """Signed distance to the outline in pixels, negative inside, `[T, h, w]`."""
    if thing.corners is None:
        square = (window.x**2)[:, None, :] + (window.y**2)[:, :, None]
        return np.asarray(np.sqrt(square, out=square) - np.float32(thing.size * scale))
    distance: Floats | None = None
    for nx, ny, d in edge_half_planes(thing.corners).astype(np.float32):
        edge = window.signed_distance(cos * nx - sin * ny, sin * nx + cos * ny, d * scale)
        distance = edge if distance is None else np.maximum(distance, edge, out=distance)
    assert distance is not None
    return distance


def _mark_coverage(
    thing: RigidBody, window: _BodyWindow, cos: Floats, sin: Floats, scale: float
) -> Floats:
    """Coverage of the mark, `[T, h, w]`, which rotates with the body."""
    across = window.signed_distance(-sin, cos)
    half = np.float32(
        (BALL_MARK_HALF_WIDTH if thing.corners is None else POLYGON_MARK_HALF_WIDTH)
        * thing.size
        * scale
    )
    if thing.marking == "stripe":
        np.abs(across, out=across)
        across -= half
    elif thing.marking == "dot":
        reach = np.float32(0.45 * thing.size * scale)
        dx, dy = window.x - (reach * cos)[:, None], window.y - (reach * sin)[:, None]
        across = np.sqrt((dx**2)[:, None, :] + (dy**2)[:, :, None])
        across -= half
    return np.clip(0.5 - across, 0, 1, out=across)


def _draw_string(
    frames: npt.NDArray[np.uint8],
    poses: npt.NDArray[np.float64],
    anchor: tuple[float, float],
    scene: Scene,
) -> None:
    """Draw a thin line from the anchor to a body's centre; the body covers its end."""
    size = frames.shape[1]
    scale = size / VIEW_METERS
    dx, dy = poses[:, 0] - anchor[0], poses[:, 1] - anchor[1]
    length = np.hypot(dx, dy)
    cos, sin = (dx / length).astype(np.float32), (dy / length).astype(np.float32)
    middle_x = ((anchor[0] + dx / 2) * scale).astype(np.float32)
    middle_y = (size - (anchor[1] + dy / 2) * scale).astype(np.float32)
    half = (float(np.abs(dx).max()) / 2 * scale + 1, float(np.abs(dy).max()) / 2 * scale + 1)
    window = _BodyWindow(middle_x, middle_y, half, size)
    reach = (length / 2 * scale).astype(np.float32)[:, None, None]
    beside = np.abs(window.signed_distance(-sin, cos)) - np.float32(0.04 * scale)
    beyond = np.abs(window.signed_distance(cos, sin)) - reach
    cover = np.clip(0.5 - np.maximum(beside, beyond), 0, 1)
    tone = np.full(3, 0.15 if scene.outline_brightness < 1 else 0.85, np.float32)
    _blend(frames, window, [cover], [tone])
