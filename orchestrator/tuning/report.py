"""The report of a sweep: one HTML page with Optuna's plots, and the same points as a PNG."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from orchestrator.report.figures import COLOURS, GREEN, RED, literal, new_figure, share_chart, svg
from orchestrator.report.page import render_page

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

STATE_COLOURS = {
    "done": COLOURS[0],
    "pruned": COLOURS[1],
    "stopped": COLOURS[1],
    "collapsed": RED,
    "failed": COLOURS[2],
}
BEST_COLOUR = GREEN

Row = Mapping[str, Any]
"""A trial: number, state, values, steps, objective, loss, rungs, error."""


def render_html(result: Mapping[str, Any]) -> str:
    """The page of a sweep's result (`sweep.json`)."""
    rows: list[Row] = result["trials"]
    completed = [row for row in rows if row["state"] == "done"]
    shared = [key for key in result["keys"] if all(key in row["values"] for row in completed)]
    history, parallel = _optuna_figures(result, shared) if completed else ("", "")
    importance = result["importance"]
    return render_page(
        "sweep",
        sweep=result,
        best=next((row for row in rows if row["number"] == result["best"]), None),
        objective=_objective_name(rows),
        text=_text,
        history=history,
        parallel=parallel,
        importance=share_chart(importance, "importance") if importance else "",
        slices=svg(slice_figure(result)) if _scored(rows) else "",
        conditional=[key for key in result["keys"] if key not in shared],
    )


def render_png(result: Mapping[str, Any]) -> bytes:
    """Objective by trial number and by each key, as a PNG."""
    figure = slice_figure(result)
    figure.suptitle(literal(f"Sweep {result['name']}"))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def slice_figure(result: Mapping[str, Any]) -> Figure:
    """Objective of every scored trial by its number and by each key, coloured by state.

    Not Optuna's `plot_slice`, which leaves out pruned trials and does not mark the best one.
    """
    names = ["trial", *result["keys"]]
    rows = math.ceil(len(names) / 4)
    columns = math.ceil(len(names) / rows)
    figure = new_figure(2.8 * columns, 2.9 * rows)
    every = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, name in zip(every, names, strict=False):
        points = [(row["number"], row) for row in _scored(result["trials"])]
        if name != "trial":
            points = _points(result, name)
            if name in result["log"] and points:
                axes.set_xscale("log")
        _scatter(axes, points, result)
        axes.set_xlabel(literal(name))
        axes.tick_params(labelleft=True)
    for axes in every[len(names) :]:
        axes.remove()
    every[0].set_ylabel("objective")
    return figure


def _points(result: Mapping[str, Any], key: str) -> list[tuple[Any, Row]]:
    """Each scored trial at its value of the key."""
    rows = [row for row in _scored(result["trials"]) if key in row["values"]]
    if _is_categorical(_tried(result, key)):
        rows.sort(key=lambda row: _text(row["values"][key]))
        return [(literal(_text(row["values"][key])), row) for row in rows]
    return [(row["values"][key], row) for row in rows]


def _optuna_figures(
    result: Mapping[str, Any], shared: Sequence[str]
) -> tuple[Markup, Markup | str]:
    """History with the best so far, and parallel coordinates of the keys that all trials have."""
    study = rebuild_study(result)
    with _optuna_plots() as plots:
        history = plots.plot_optimization_history(study, target_name="objective")
        marked = [row for row in _scored(result["trials"]) if _is_marked(row, result)]
        _scatter(history, [(row["number"], row) for row in marked], result)
        drawn = [_resized_svg(history, 8.4, 3.4)]
        if shared:
            parallel = plots.plot_parallel_coordinate(
                study, params=list(shared), target_name="objective"
            )
            drawn.append(_resized_svg(parallel, max(9.5, 2.0 * len(shared) + 4), 4.2))
    return drawn[0], drawn[1] if shared else ""


def _resized_svg(axes: Any, width: float, height: float) -> Markup:
    """Optuna's plot in a size that fits the page, and in colours seen on light and dark paper."""
    axes.set_title("")
    figure = axes.figure
    figure.set_size_inches(width, height)
    for each in figure.axes:
        each.grid(visible=False)
        if each.get_legend():
            each.get_legend().set_frame_on(False)
        for lines in each.collections:
            if lines.get_array() is not None:
                lines.set_cmap("cool")
    return svg(figure)


def _is_marked(row: Row, result: Mapping[str, Any]) -> bool:
    """Optuna plots complete trials alike, and no other."""
    return bool(row["state"] != "done" or row["number"] == result["best"])


def rebuild_study(result: Mapping[str, Any]) -> optuna.Study:
    """An Optuna study of the trials, under their own numbers.

    Only trials that were trained to the end and did not collapse are complete; the others are
    kept as failed ones, which Optuna does not plot. Ranges are those of the values that were tried.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {key: _distribution(result, key) for key in result["keys"]}
    rows = {row["number"]: row for row in result["trials"]}
    for number in range(max(rows, default=-1) + 1):  # add_trial counts from 0
        row = rows.get(number)
        if row is None or row["state"] != "done":
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
            continue
        params = {
            key: literal(_text(value)) if _is_categorical(_tried(result, key)) else value
            for key, value in row["values"].items()
            if key in distributions
        }
        study.add_trial(
            optuna.trial.create_trial(
                value=row["objective"],
                params=params,
                distributions={key: distributions[key] for key in params},
            )
        )
    return study


def _distribution(result: Mapping[str, Any], key: str) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    values = _tried(result, key)
    if _is_categorical(values):
        return CategoricalDistribution(sorted({literal(_text(value)) for value in values}) or [""])
    log = key in result["log"]
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values), log=log)
    return FloatDistribution(min(values), max(values), log=log)


def _tried(result: Mapping[str, Any], key: str) -> list[Any]:
    return [row["values"][key] for row in result["trials"] if key in row["values"]]


def _is_categorical(values: Sequence[Any]) -> bool:
    return not values or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values)


@contextmanager
def _optuna_plots() -> Iterator[Any]:
    """`optuna.visualization.matplotlib`; it draws by pyplot, whose global settings are put back."""
    import matplotlib
    from matplotlib import pyplot

    before = matplotlib.get_backend(auto_select=False)
    with matplotlib.rc_context(), warnings.catch_warnings():
        pyplot.switch_backend("agg")
        warnings.simplefilter("ignore")  # the plots are "experimental" since Optuna 2.2
        opened = set(pyplot.get_fignums())
        try:
            import optuna.visualization.matplotlib as plots

            yield plots
        finally:
            for number in set(pyplot.get_fignums()) - opened:
                pyplot.close(number)
            if before is not None:
                pyplot.switch_backend(before)


def _scatter(axes: Any, points: Sequence[tuple[Any, Row]], result: Mapping[str, Any]) -> None:
    """One point for each trial in the colour of its state; the best one on top."""
    for colour in (*dict.fromkeys(STATE_COLOURS.values()), BEST_COLOUR):
        chosen = [(x, row["objective"]) for x, row in points if _colour(row, result) == colour]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), s=22, color=colour, zorder=3)


def _colour(row: Row, result: Mapping[str, Any]) -> str:
    return BEST_COLOUR if row["number"] == result["best"] else STATE_COLOURS[row["state"]]


def _scored(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["objective"] is not None]


def _objective_name(rows: Sequence[Row]) -> str:
    """The scores whose mean the objective is."""
    parts = [row["rungs"][-1]["scores"] for row in _scored(rows) if row["rungs"]]
    scores: Mapping[str, float] = parts[0] if parts else {}
    return "mean of " + ", ".join(scores) if len(scores) > 1 else ", ".join(scores) or "none"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value.get("kind", value)) if isinstance(value, dict) else str(value)
