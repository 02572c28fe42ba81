"""Trivial baselines, and the gate that no scenario may be decided by one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.physics.suite.quads import SCENARIOS, Quad, make_suite
from orchestrator.physics.suite.scoring import pair_accuracy, quad_correct

BASELINES = ("copy", "linear", "centroid", "random_conv", "difference")
PAIR_TOLERANCE = 0.08  # around chance, 0.5
# Above chance, 0.25; below it a baseline is deceived, which is no cue.
QUAD_TOLERANCE = 0.12
# Standard errors that some 60 comparisons may be off by luck; with few quads this allows more than
# the slack does: 0.18 for the quads of 40, and for the pairs of `lever`, whose four agree.
NUM_STANDARD_ERRORS = 2.6
LEGITIMATE_CUES: dict[tuple[str, str], str] = {
    ("permanence", "centroid"): "it keeps the place where a thing was last seen through empty "
    "frames, and that things stay where they went is what permanence asks for",
}
"""(scenario, baseline): why what that baseline uses is what the scenario asks for."""

MOVING_PIXEL_THRESHOLD = 24.0  # summed RGB levels by which a pixel counts as moving
KERNEL, STRIDE, NUM_CHANNELS = 5, 3, 24

FloatVideo = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


def baseline_scores(quad: Quad) -> dict[str, Scores]:
    """How much each cell surprises each baseline.

    Returns:
        name -> `[2, 2]` of (context, outcome): the mean error over the frames after the break of
        copy (the last frame before it), linear (extrapolation of each pixel), centroid (of what
        moves, with constant velocity and acceleration), random_conv (copy in the space of fixed
        random convolutions); difference: the mean change from frame to frame.
    """
    found = {name: np.zeros((2, 2)) for name in BASELINES}
    for cell in np.ndindex(2, 2):
        for name, score in video_baseline_scores(quad.videos[cell], quad.break_frame).items():
            found[name][cell] = score
    return found


def baseline_table(
    split: str,
    quads: int,
    *,
    scenarios: Sequence[str] = SCENARIOS,
    size: int = 64,
    fps: float = 8.0,
    frames: int = 24,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float | bool]]]:
    """What each baseline reaches in each scenario.

    Returns:
        scenario -> baseline -> {"pairs": accuracy in 0..1, "quads": the same, "named": whether it
        is among `LEGITIMATE_CUES`, "passes": at chance, or named}.
    """
    table: dict[str, dict[str, dict[str, float | bool]]] = {}
    for scenario in scenarios:
        suite = make_suite(
            split, quads=quads, scenarios=[scenario], size=size, fps=fps, frames=frames, seed=seed
        )
        scores = [baseline_scores(quad) for quad in suite]
        table[scenario] = {
            name: _baseline_row(scenario, name, np.stack([one[name] for one in scores]))
            for name in BASELINES
        }
    return table


def _baseline_row(scenario: str, name: str, scores: Scores) -> dict[str, float | bool]:
    pair, quad = pair_accuracy(scores), quad_correct(scores)
    pairs, quads = float(pair.mean()), float(quad.mean())
    named = (scenario, name) in LEGITIMATE_CUES
    # Few quads differ from chance by luck; in most scenarios a pair's luck cancels within a quad.
    pair_slack = max(PAIR_TOLERANCE, NUM_STANDARD_ERRORS * float(pair.std() / np.sqrt(len(pair))))
    quad_slack = max(QUAD_TOLERANCE, NUM_STANDARD_ERRORS * float(np.sqrt(0.25 * 0.75 / len(quad))))
    chance = abs(pairs - 0.5) <= pair_slack and quads <= 0.25 + quad_slack
    return {"pairs": pairs, "quads": quads, "named": named, "passes": named or chance}


def video_baseline_scores(video: npt.NDArray[np.uint8], t_break: int) -> dict[str, float]:
    """One video `[T, H, W, 3]`; surprise of each baseline."""
    film = video.astype(np.float32)
    last, before, future = film[t_break - 1], film[max(0, t_break - 2)], film[t_break:]
    ahead = np.arange(1, len(future) + 1, dtype=np.float32)[:, None, None, None]
    line = np.clip(last + ahead * (last - before), 0, 255)
    features = _random_conv_features(film[t_break - 1 :])
    return {
        "copy": _mean(np.abs(future - last)),
        "linear": _mean(np.abs(future - line)),
        "centroid": _centroid_error(film, t_break),
        "random_conv": _mean(np.abs(features[1:] - features[0])),
        "difference": _mean(np.abs(np.diff(film[t_break - 1 :], axis=0))),
    }


def _mean(values: FloatVideo) -> float:
    # In double precision, or equal videos could differ by the order of summing.
    return float(np.mean(values, dtype=np.float64))


def _centroid_error(film: FloatVideo, t_break: int) -> float:
    """Mean distance (pixels) of the moving foreground's centroid from its extrapolation.

    What moves differs from the median of the frames before the break. Frames in which nothing
    does have no centroid and are left out; without three before the break, the last known stays.
    """
    still = np.median(film[:t_break], axis=0)
    moves = np.abs(film - still).sum(axis=3)
    moves = np.where(moves > MOVING_PIXEL_THRESHOLD, moves, 0).astype(np.float64)
    mass = moves.sum(axis=(1, 2))
    rows, columns = np.indices(moves.shape[1:])
    with np.errstate(invalid="ignore"):
        centre = np.stack(
            [(moves * axis).sum(axis=(1, 2)) / mass for axis in (columns, rows)], axis=1
        )
    speed = gain = np.full(2, np.nan)
    if t_break >= 3:
        third, second, first = centre[t_break - 3 : t_break]
        speed, gain = first - second, first - 2 * second + third
    if np.isnan(gain).any():
        known = centre[:t_break][~np.isnan(centre[:t_break, 0])]
        first = known[-1] if len(known) else np.array(film.shape[1:3]) / 2
        speed, gain = np.zeros(2), np.zeros(2)
    time = np.arange(1, len(film) - t_break + 1)[:, None]
    path = first + speed * time + gain * time * (time + 1) / 2
    error = np.linalg.norm(centre[t_break:] - path, axis=1)
    return float(np.nanmean(error)) if np.isfinite(error).any() else 0.0


def _random_conv_features(film: FloatVideo) -> FloatVideo:
    """Two layers of fixed random convolutions, `[T, h, w, CHANNELS]`."""
    rng = np.random.default_rng(0)
    layer = film / 255
    for _ in range(2):
        weights = rng.standard_normal((layer.shape[3] * KERNEL**2, NUM_CHANNELS)).astype(np.float32)
        view = np.lib.stride_tricks.sliding_window_view(layer, (KERNEL, KERNEL), axis=(1, 2))
        patches = view[:, ::STRIDE, ::STRIDE]
        # Row by row: one large product would go to BLAS threads, slow beside other processes.
        rows = patches.reshape(*patches.shape[:3], len(weights))
        maps = rows @ (weights / np.float32(np.sqrt(len(weights))))
        layer = np.maximum(maps, 0).astype(np.float32)
    return np.asarray(layer)
