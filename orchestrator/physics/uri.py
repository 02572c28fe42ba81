"""Parse `physics://SCENE_TYPE?option=value&...`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import parse_qsl

from orchestrator.errors import RequestError, suggest
from orchestrator.paths import split_uri
from orchestrator.physics.scenes import SCENE_BUILDERS
from orchestrator.physics.suite.quads import SCENARIOS

ALL_SCENE_TYPES = "mixed"
STATIC_BACKGROUND, MOVING_BACKGROUND = "still", "moving"
BACKGROUNDS = (STATIC_BACKGROUND, MOVING_BACKGROUND)
ALL_SUITE_SCENARIOS = "possible"
SUITE_PREFIX = "suite-"
SUITE_SCENE_TYPES = tuple(SUITE_PREFIX + scenario for scenario in SCENARIOS)
MAX_VIDEO_BYTES = 500_000_000  # raw frames of one video, which are in memory at once


@dataclass(frozen=True)
class PhysicsOptions:
    """Options of a `physics://` source; all have a default."""

    family: str = ALL_SCENE_TYPES
    """A scene type, or `mixed`: all of them alternately. `suite-SCENARIO`: possible videos of a
    test scenario, from other random draws than the tests'; `possible`: all of these alternately."""
    clips: int = 2000
    """Number of videos."""
    seed: int = 0
    """Another seed gives other videos."""
    size: int = 128
    """Side of the square frames in pixels; even."""
    fps: float = 24.0
    """Frames per second."""
    seconds: float = 5.0
    """Length of a video in seconds."""
    distractors: int = 2
    """Maximum number of distractors in a scene."""
    background: str = STATIC_BACKGROUND
    """`still`, or `moving`: textures drift in the background, as a distraction."""

    @property
    def scenes(self) -> str:
        """Identity of a video but for its index, as text: every option except `clips`."""
        return (
            f"physics://{self.family}?seed={self.seed}&size={self.size}&fps={self.fps:g}"
            f"&seconds={self.seconds:g}&distractors={self.distractors}"
            # The default is left out, so that datasets older than the option keep their identity.
            + ("" if self.background == STATIC_BACKGROUND else f"&background={self.background}")
        )

    def scene_type_of(self, index: int) -> str:
        """The scene type of a video; for mixed sources they alternate by index."""
        turns = {
            ALL_SCENE_TYPES: tuple(SCENE_BUILDERS),
            ALL_SUITE_SCENARIOS: SUITE_SCENE_TYPES,
        }.get(self.family)
        return turns[index % len(turns)] if turns else self.family


OPTION_RANGES: dict[str, tuple[type[int] | type[float], float, float]] = {
    "clips": (int, 1, 10_000_000),
    "seed": (int, 0, 2**63 - 1),
    "size": (int, 16, 512),
    "fps": (float, 1, 120),
    "seconds": (float, 1, 60),
    "distractors": (int, 0, 4),
}


def parse_physics_uri(uri: str) -> PhysicsOptions:
    """Parse a `physics://` URI.

    Raises:
        RequestError: an unknown family or option, or a value that cannot be.
    """
    parts = split_uri(uri)
    family = parts.netloc or ALL_SCENE_TYPES
    if parts.scheme != "physics" or parts.path.strip("/") or parts.fragment:
        raise RequestError(
            "not a physics source",
            where=uri,
            hint="physics://FAMILY?option=value, such as physics://mixed?clips=2000",
        )
    known = [ALL_SCENE_TYPES, ALL_SUITE_SCENARIOS, *SCENE_BUILDERS, *SUITE_SCENE_TYPES]
    if family not in known:
        raise RequestError(
            f"no family of scenes '{family}'", where=uri, hint=suggest(family, known)
        )
    values: dict[str, float | str] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in (*OPTION_RANGES, "background"):
            raise RequestError(
                f"unknown option '{name}'",
                where=uri,
                hint=suggest(name, [*OPTION_RANGES, "background"]),
            )
        if name in values:
            raise RequestError(f"option '{name}' is given twice", where=uri, hint="give it once")
        values[name] = (
            _parse_background(text, uri)
            if name == "background"
            else parse_number(name, text, OPTION_RANGES[name], uri)
        )
    options = PhysicsOptions(family, **values)  # type: ignore[arg-type]  # LIMITS has the types
    _check_combination(options, uri)
    return options


NumberRange = tuple[type[int] | type[float], float, float]


def parse_number(name: str, text: str, number_range: NumberRange, uri: str) -> float:
    """Parse a numeric option and check its range.

    Raises:
        RequestError: it is not.
    """
    kind, low, high = number_range
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise RequestError(
            f"{name}={text} cannot be",
            where=uri,
            hint=f"{name} is {what} from {low:.10g} to {high:.10g}",
        )
    return value


def _parse_background(text: str, uri: str) -> str:
    if text not in BACKGROUNDS:
        raise RequestError(
            f"background={text} cannot be", where=uri, hint=suggest(text, list(BACKGROUNDS))
        )
    return text


def _check_combination(options: PhysicsOptions, uri: str) -> None:
    if options.size % 2:
        raise RequestError(
            f"size={options.size} is odd",
            where=uri,
            hint=f"H.264 stores colour at half size: size={options.size + 1}",
        )
    if options.size**2 * 3 * options.fps * options.seconds > MAX_VIDEO_BYTES:
        raise RequestError(
            f"one video of {options.size} pixels, {options.fps:g} fps and {options.seconds:g} s "
            "is too large to simulate at once",
            where=uri,
            hint=f"lower size, fps or seconds: at most {MAX_VIDEO_BYTES // 10**6} MB of raw frames",
        )
