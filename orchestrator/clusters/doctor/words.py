"""How the doctor's lines say figures and nodes."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 4


def join_names(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def format_bytes(count: float) -> str:
    """Bytes: `3.4 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.3g} {unit}" if abs(count) < 1000 else f"{count:.0f} {unit}"


def per_second(value: float, unit: str) -> str:
    """A figure in a second: `52.1 GFLOP/s`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}/s"
    return f"{value:.3g} {unit}/s"
