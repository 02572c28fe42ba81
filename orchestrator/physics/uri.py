"""`physics://FAMILY?option=value&...` and what it may say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import parse_qsl

from orchestrator.errors import RequestError, suggest
from orchestrator.paths import split_uri
from orchestrator.physics.scenes import FAMILIES
from orchestrator.physics.suite.quads import SCENARIOS

MIXED = "mixed"
STILL, MOVING = "still", "moving"
BACKGROUNDS = (STILL, MOVING)
POSSIBLE = "possible"
LESSONS = "suite-"
LESSON_FAMILIES = tuple(LESSONS + scenario for scenario in SCENARIOS)
MOST_BYTES = 500_000_000  # of one video's raw frames, which are in memory at once


@dataclass(frozen=True)
class PhysicsOptions:
    """The options of a `physics://` source, all with a default."""

    family: str = MIXED
    """A family of scenes, or `mixed`: all of them in turn. `suite-SCENARIO`: what the test suites
    ask about, as it really goes, from draws of its own; `possible`: all of these in turn."""
    clips: int = 2000
    """Videos."""
    seed: int = 0
    """Another seed gives other videos."""
    size: int = 128
    """Pixels of the square picture; even."""
    fps: float = 24.0
    """Frames per second."""
    seconds: float = 5.0
    """Length of a video."""
    distractors: int = 2
    """Most bystanders in a scene."""
    background: str = STILL
    """`still`, or `moving`: textures drift behind everything, and mean nothing."""

    @property
    def scenes(self) -> str:
        """What decides the video of an index, as a canonical text (so without `clips`)."""
        return (
            f"physics://{self.family}?seed={self.seed}&size={self.size}&fps={self.fps:g}"
            f"&seconds={self.seconds:g}&distractors={self.distractors}"
            # Left out where it is still: what was packed before there was a choice stays the same.
            + ("" if self.background == STILL else f"&background={self.background}")
        )

    def family_of(self, index: int) -> str:
        """The family of a video: its own, or each in turn when mixed."""
        turns = {MIXED: tuple(FAMILIES), POSSIBLE: LESSON_FAMILIES}.get(self.family)
        return turns[index % len(turns)] if turns else self.family


LIMITS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "clips": (int, 1, 10_000_000),
    "seed": (int, 0, 2**63 - 1),
    "size": (int, 16, 512),
    "fps": (float, 1, 120),
    "seconds": (float, 1, 60),
    "distractors": (int, 0, 4),
}


def parse(uri: str) -> PhysicsOptions:
    """Read a `physics://` URI.

    Raises:
        RequestError: an unknown family or option, or a value that cannot be.
    """
    parts = split_uri(uri)
    family = parts.netloc or MIXED
    if parts.scheme != "physics" or parts.path.strip("/") or parts.fragment:
        raise RequestError(
            "not a physics source",
            where=uri,
            mend="physics://FAMILY?option=value, such as physics://mixed?clips=2000",
        )
    known = [MIXED, POSSIBLE, *FAMILIES, *LESSON_FAMILIES]
    if family not in known:
        raise RequestError(
            f"no family of scenes '{family}'", where=uri, mend=suggest(family, known)
        )
    values: dict[str, float | str] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in (*LIMITS, "background"):
            raise RequestError(
                f"unknown option '{name}'", where=uri, mend=suggest(name, [*LIMITS, "background"])
            )
        if name in values:
            raise RequestError(f"option '{name}' is given twice", where=uri, mend="give it once")
        values[name] = (
            _background(text, uri)
            if name == "background"
            else number(name, text, LIMITS[name], uri)
        )
    options = PhysicsOptions(family, **values)  # type: ignore[arg-type]  # LIMITS has the types
    _check_together(options, uri)
    return options


Limit = tuple[type[int] | type[float], float, float]


def number(name: str, text: str, limit: Limit, uri: str) -> float:
    """The value of an option that is a number of a kind, from a lowest to a highest.

    Raises:
        RequestError: it is not.
    """
    kind, low, high = limit
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise RequestError(
            f"{name}={text} cannot be",
            where=uri,
            mend=f"{name} is {what} from {low:.10g} to {high:.10g}",
        )
    return value


def _background(text: str, uri: str) -> str:
    if text not in BACKGROUNDS:
        raise RequestError(
            f"background={text} cannot be", where=uri, mend=suggest(text, list(BACKGROUNDS))
        )
    return text


def _check_together(options: PhysicsOptions, uri: str) -> None:
    if options.size % 2:
        raise RequestError(
            f"size={options.size} is odd",
            where=uri,
            mend=f"H.264 stores colour at half size: size={options.size + 1}",
        )
    if options.size**2 * 3 * options.fps * options.seconds > MOST_BYTES:
        raise RequestError(
            f"one video of {options.size} pixels, {options.fps:g} fps and {options.seconds:g} s "
            "is too large to simulate at once",
            where=uri,
            mend=f"lower size, fps or seconds: at most {MOST_BYTES // 10**6} MB of raw frames",
        )
