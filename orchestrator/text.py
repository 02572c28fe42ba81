"""Figures and commands as a person reads them on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote


def format_bytes(count: float) -> str:
    """Bytes as a person reads them: `3.4 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.3g} {unit}"


def format_number(value: float) -> str:
    """A count or rate in three digits: `12.3 M`, `1.85e+14` as `185 T`."""
    for factor, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: `3 min 12 s`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def python_command(code: str) -> str:
    """`python -c CODE` for a shell, quoted only where the code needs it."""
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {quote(code)}"


def format_percent_interval(found: Mapping[str, float]) -> str:
    """A share with its interval, in percent: `62.5% [48, 75]`."""
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.1f}% [{low:.0f}, {high:.0f}]"
