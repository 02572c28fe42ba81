"""Every page shows its facts, escapes names, and needs no other file."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import UndefinedError
from matplotlib.colors import to_hex

from orchestrator.evaluation.benchmarks.report import pairs_report, rollouts_report
from orchestrator.evaluation.planning.report import planning_report
from orchestrator.evaluation.probes.report import probe_report
from orchestrator.evaluation.suite.report import suite_report
from orchestrator.report.page import format_number, format_plain, format_points, format_share
from orchestrator.study.report import study_report
from orchestrator.tuning.report import (
    BEST_COLOUR,
    rebuild_study,
    render_html,
    render_png,
    slice_figure,
)
from tests.support import reports as made

PAGES: dict[str, tuple[Callable[[], str], list[str]]] = {
    "suite": (
        lambda: suite_report(made.suite_summary(), SimpleNamespace(model={}), "test"),  # type: ignore
        [
            "feedbeef", "43.3%", "[33, 53]", "71.1%", "vs. 2 random models", "+26.8 pp",
            "mean 16.5%, best 22.0%", "-17.7 pp", "centroid: 61.0%", "RankMe 9.63",
            "standard deviation 1.25", "0.004", "0.77", "0.52 s", "[0.49, 0.55]", "(0.91)",
            "12%, 49%", "centroid*: 61%, 73%", "centroid: 61%, 73%", "no shortcut", "vanish",
            "13", "85.0%", "38%", "jump: 57%", "4 frames", "mask token 0", "up to 2 before",
            "37.5%", "time steps ahead", "suite version 2", "seed 5", "32 px", "8 fps", "from 0, 8",
            "0.83", "-0.72", "skill", "0.411, 0.522, 0.633", "0.25",
        ],
    ),
    "pairs": (
        lambda: pairs_report(made.pairs_summary(), [("Gravity: worst", "s<1>", made.videos())]),
        [
            "GRASP, level 2", "34 scenes scored", "1 excluded", "feedbeef", "71.0%", "65.0%",
            "0.702", "2 random models", "50.7%", "best 53.2%", "Gravity&lt;b&gt;", "17", "71.2%",
            "65.5%", "0.012", "0.701", "48%, 57%", "6 frames", "mask token 1", "up to 3 before",
            "9 scenes of the dev set", "Inertia/004", "no frames &lt;in&gt; it", "Gravity: worst",
            "s&lt;1&gt;", "impossible",
        ],
    ),
    "rollouts": (
        lambda: rollouts_report(made.rollouts_summary()),
        [
            "CLEVRER", "12 scenes scored", "none excluded", "0.234", "0.345", "over copy", "0.017",
            "best 0.022", "31%", "(6.25%)", "62%", "(100%)", "44%", "0.81", "0.00", "4 clips",
            "seconds ahead", "0.75",
        ],
    ),
    "probe": (
        lambda: probe_report(made.probe_summary()),
        [
            "linear probe for states", "feedbeef", "x&lt;i&gt;", "0.812", "[0.762, 0.862]", "60.0%",
            "[55.0, 65.0]", "none: the scored rows are all alike", "random weights",
            "without features", "90%", "1,111 rows of 22 videos", "555 rows of 6 videos",
            "7 clips have no states", "penalty 0.01", "0.123", "4.5",
            "1,234 clips, tokens, float32", "d1d1", "r5r5", "m2m2", "a3a3, b4b4",
            "/storage/features/f",
        ],
    ),
    "planning": (
        lambda: planning_report(*made.planning_facts()),
        [
            "two_rooms", "66.7%", "of 3 tasks", "vs. random", "+33.4 pp", "33.3%", "3.21 ms",
            "11.5", "0.42", "1.23", "samples from the whole action space", "25 control steps",
            "seed", "50", "cem", "samples 64", "feedbeef", "Reached: 2 of 3", "Not reached: 1 of 3",
            "reached after 7 control steps", "random: not reached", "0.31",
        ],
    ),
    "study": (
        lambda: study_report(made.study_result()),
        [
            "1,234 steps", "8 clips", "2 seeds", "physics://mixed?size=48&amp;fps=8", "10 videos",
            "4 others", "position, moving background", "4,096 videos", "0.550", "0.050",
            r"ran&lt;dom $\nope$", "(untrained)", "0.060", "N(pixels) / N(ema) = 4.20 [2.00, 9.00]",
            "videos trained on",
        ],
    ),
    "sweep": (
        lambda: render_html(made.sweep_result()),
        [
            "12 trials of 2,000 steps", "search tpe", "scheduler", "mean of place, speed",
            "Best: trial", "importance", "0.70", "collapsed", "pruned",
            "rankme_share 0.1 is below 0.2", "out of memory", "depth&lt;b&gt;",
            r"gru&lt;script&gt;$\nope$",
            "objective.ema", "Not every complete trial has objective.ema", "0.0300",
        ],
    ),
}  # fmt: skip

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Tags that are closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: make() for name, (make, _) in PAGES.items()}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_every_fact(name: str, pages: dict[str, str]) -> None:
    text = " ".join(pages[name].split())
    assert [fact for fact in PAGES[name][1] if fact not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_other_file_and_escapes_names(name: str, pages: dict[str, str]) -> None:
    page = pages[name]
    assert made.external_references(page) == []
    assert made.HOSTILE not in page
    assert "run&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;" in page
    assert "<script" not in page
    parser = Balance()
    parser.feed(page)
    assert parser.open == []


@pytest.mark.parametrize("name", PAGES)
def test_figures_are_well_formed_and_take_the_page_s_colour(
    name: str, pages: dict[str, str]
) -> None:
    drawn = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in pages[name].split("<svg")[1:]]
    assert bool(drawn) == (name not in ("probe", "planning"))
    for one in drawn:
        assert ET.fromstring(one).tag.endswith("svg")
    charts = [one for one in drawn if 'class="chart"' in one]
    assert all("currentColor" in one for one in charts)


@pytest.mark.parametrize(
    "reference",
    ["<img src='https://a/b.png'>", "<link href=x.css>", "<style>@import 'x.css';</style>",
     "<p style='background:url(x.png)'>", "<script>1</script>"],
)  # fmt: skip
def test_an_external_reference_is_noticed(reference: str) -> None:
    assert made.external_references(f"<html>{reference}</html>")


def test_a_page_without_a_fact_is_an_error_and_not_an_empty_place() -> None:
    summary = made.rollouts_summary()
    del summary["chosen_on"]
    with pytest.raises(UndefinedError, match="chosen_on"):
        rollouts_report(summary)


def test_numbers_have_their_interval_and_their_unit() -> None:
    value = {"value": 0.5, "low": -0.004, "high": 1.0}
    assert format_share(value) == "50.0% <span class='dim'>[-0, 100]</span>"
    assert format_points(value) == "+50.0 pp <span class='dim'>[-0, +100]</span>"
    assert format_number(value, 2, " s") == "0.50 s <span class='dim'>[0.00, 1.00]</span>"
    assert format_plain(-0.001, 2) == "0.00"


@pytest.mark.parametrize(
    ("champion", "said"),
    [
        ({"judged": True}, "The evaluated version is the champion."),
        ({"protocol": None}, "It was never evaluated"),
        ({"protocol": "other"}, "the numbers cannot be compared"),
        ({"difference": made.interval(0.3)}, "This one beats it: quads right +30.0 pp"),
        ({"difference": made.interval(0.05)}, "This one does not clearly beat it"),
    ],
)
def test_the_champion_is_compared_where_it_can_be(champion: dict[str, Any], said: str) -> None:
    summary = made.suite_summary()
    facts: dict[str, Any] = {"version": 7, "judged": False, "protocol": "feedbeef"} | champion
    if "difference" in champion:
        facts |= {"overall": summary["overall"], "scenarios": summary["scenarios"]}
    page = suite_report(summary | {"champion": facts}, SimpleNamespace(model={}), "test")  # type: ignore
    assert "Comparison with champion version 7" in page
    assert said in " ".join(page.replace("<span", " <span").split())


def test_a_study_of_trials_keeps_their_numbers_and_their_values() -> None:
    result = made.sweep_result()
    study = rebuild_study(result)
    rows = {row["number"]: row for row in result["trials"]}
    assert [trial.number for trial in study.trials] == sorted(rows)
    for trial in study.trials:
        row = rows[trial.number]
        assert (trial.state.name == "COMPLETE") == (row["state"] == "done")
        if row["state"] == "done":
            assert trial.value == row["objective"]
            assert trial.params["optim.lr"] == row["values"]["optim.lr"]
            assert set(trial.params) == set(row["values"])
    assert study.best_trial.number == result["best"]


def only(result: dict[str, Any], *states: str) -> dict[str, Any]:
    rows = [row for row in result["trials"] if row["state"] in states]
    best = rows[0]["number"] if rows and rows[0]["state"] == "done" else None
    return result | {"trials": rows, "best": best, "importance": {}}


@pytest.mark.parametrize("states", [("collapsed", "failed"), ("pruned",), ("done",)])
def test_a_sweep_with_few_trials_has_a_page_too(states: tuple[str, ...]) -> None:
    result = only(made.sweep_result(6), *states)
    page = render_html(result)
    assert ("No trial can be selected" in page) == ("done" not in states)
    assert "Too few complete trials." in page
    assert all(f"<td>{row['number']}</td>" in page for row in result["trials"])
    assert render_png(result).startswith(b"\x89PNG")


def test_one_trial_of_one_key_that_never_varies_is_drawn() -> None:
    result = only(made.sweep_result(6), "done")
    result["trials"] = result["trials"][:1]
    result["keys"] = ["optim.lr"]
    assert render_html(result).count("<svg") == 3


def test_a_thousand_trials_are_one_page_of_some_megabytes_in_some_seconds() -> None:
    result = made.sweep_result(1000)
    begun = time.perf_counter()
    page = render_html(result)
    assert time.perf_counter() - begun < 30
    assert len(page) < 4_000_000


def test_plots_leave_pyplot_as_it_was() -> None:
    from matplotlib import pyplot, rcParams

    pyplot.switch_backend("svg")
    figure, before = pyplot.figure(), dict(rcParams)
    render_html(made.sweep_result())
    assert pyplot.get_fignums() == [figure.number]
    assert {key: value for key, value in rcParams.items() if before[key] != value} == {}
    pyplot.close(figure)


def test_matplotlib_is_imported_when_a_page_is_written() -> None:
    modules = ["suite", "benchmarks", "planning", "probes"]
    lines = [f"import orchestrator.evaluation.{name}.report" for name in modules]
    lines += ["import orchestrator.study.report, orchestrator.tuning.report, sys"]
    lines += ["sys.exit('matplotlib' in sys.modules)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_every_scored_trial_is_a_point_at_its_value_in_the_colour_of_its_state() -> None:
    result = made.sweep_result()
    panels = {axes.get_xlabel(): axes for axes in slice_figure(result).axes}
    scored = [row for row in result["trials"] if row["objective"] is not None]
    for key in ("trial", *result["keys"]):
        points = [place for group in panels[key].collections for place in group.get_offsets()]
        wanted = [row["objective"] for row in scored if key == "trial" or key in row["values"]]
        assert sorted(y for _, y in points) == pytest.approx(sorted(wanted))
    (best,) = [
        group.get_offsets()[0]
        for group in panels["trial"].collections
        if to_hex(group.get_facecolor()[0]) == BEST_COLOUR
    ]
    assert best[0] == result["best"]
    assert panels["optim.lr"].get_xscale() == "log"
