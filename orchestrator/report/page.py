"""One HTML file per report: Jinja2 templates of `templates/`, and numbers as a person reads them.

A page needs no other file and no network. It is readable in a light and in a dark browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Interval = Mapping[str, float]
"""value, low, high."""


def render_page(template: str, **facts: Any) -> str:
    """The whole page; text among `facts` is escaped, `Markup` is not.

    Args:
        template: file name in `templates/` without `.html.j2`.

    Raises:
        jinja2.UndefinedError: the template asks for a fact that was not given.
    """
    return _environment().get_template(f"{template}.html.j2").render(facts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": format_percent,
        "share": format_share,
        "points": format_points,
        "interval": format_number,
        "plain": format_plain,
    }
    return environment


def format_percent(share: float, digits: int = 1) -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * share:.{digits}f}%"


def format_share(share: Interval) -> Markup:
    """A share with its interval, in percent."""
    low, high = 100 * share["low"], 100 * share["high"]
    return _with_interval(format_percent(share["value"]), f"{low:.0f}, {high:.0f}")


def format_points(difference: Interval) -> Markup:
    """A difference of two shares with its interval, in percentage points."""
    low, high = 100 * difference["low"], 100 * difference["high"]
    return _with_interval(f"{100 * difference['value']:+.1f} pp", f"{low:+.0f}, {high:+.0f}")


def format_number(number: Interval, digits: int = 3, unit: str = "") -> Markup:
    """A number with its interval."""
    value, low, high = (format_plain(number[key], digits) for key in ("value", "low", "high"))
    return _with_interval(value + unit, f"{low}, {high}")


def format_plain(value: float, digits: int) -> str:
    """A number with a fixed count of decimals, never -0.00."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _with_interval(value: str, interval: str) -> Markup:
    return Markup("{} <span class='dim'>[{}]</span>").format(value, interval)
