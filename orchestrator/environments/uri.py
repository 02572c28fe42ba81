"""Parse `world://NAME?option=value&...`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from orchestrator.environments.registry import environment_class
from orchestrator.errors import RequestError, suggest
from orchestrator.paths import split_uri
from orchestrator.physics.uri import MAX_VIDEO_BYTES, NumberRange, parse_number

OPTION_RANGES: dict[str, NumberRange] = {
    "episodes": (int, 1, 10_000_000),
    "steps": (int, 2, 100_000),
    "seed": (int, 0, 2**63 - 1),
    "size": (int, 16, 512),
}


@dataclass(frozen=True)
class EnvironmentOptions:
    """Options of a `world://` source; all but the environment have a default."""

    environment: str
    """Name for `registry.build_environment`."""
    episodes: int = 200
    """Number of videos."""
    steps: int = 100
    """Frames per video: one per control step."""
    seed: int = 0
    """Another seed gives other videos."""
    size: int = 64
    """Side of the square frames in pixels; even."""

    @property
    def canonical_uri(self) -> str:
        """Identity of an episode but for its index, as text: every option except `episodes`."""
        return f"world://{self.environment}?steps={self.steps}&seed={self.seed}&size={self.size}"


def parse_environment_uri(uri: str) -> EnvironmentOptions:
    """Parse a `world://` URI.

    Raises:
        RequestError: the environment or an option is unknown, or a value is out of range.
    """
    parts = split_uri(uri)
    if parts.scheme != "world" or not parts.netloc or parts.fragment:
        raise RequestError(
            "not an environment",
            where=uri,
            hint="world://NAME?option=value, such as world://two-rooms?episodes=200",
        )
    name = parts.netloc + parts.path.rstrip("/")
    environment_class(name)
    values: dict[str, int] = {}
    for option, text in parse_qsl(parts.query, keep_blank_values=True):
        if option not in OPTION_RANGES:
            raise RequestError(
                f"unknown option '{option}'", where=uri, hint=suggest(option, [*OPTION_RANGES])
            )
        if option in values:
            raise RequestError(f"option '{option}' is given twice", where=uri, hint="give it once")
        values[option] = int(parse_number(option, text, OPTION_RANGES[option], uri))
    options = EnvironmentOptions(name, **values)
    _check_combination(options, uri)
    return options


def _check_combination(options: EnvironmentOptions, uri: str) -> None:
    if options.size % 2:
        raise RequestError(
            f"size={options.size} is odd",
            where=uri,
            hint=f"H.264 stores colour at half size: size={options.size + 1}",
        )
    if options.size**2 * 3 * options.steps > MAX_VIDEO_BYTES:
        raise RequestError(
            f"one video of {options.steps} steps at {options.size} pixels is too large",
            where=uri,
            hint=f"lower steps or size: at most {MAX_VIDEO_BYTES // 10**6} MB of raw frames",
        )
