"""The page of a study: every curve is drawn at its scores, and it claims what the numbers allow."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import asdict

from orchestrator.report.figures import COLOURS
from orchestrator.study.curves import DataEfficiencyRatio
from orchestrator.study.report import format_claim, study_report
from tests.support.reports import study_result

SVG = "{http://www.w3.org/2000/svg}"


def drawn_lines(svg: ET.Element) -> dict[str, list[tuple[float, float]]]:
    """Points of each curve, by colour; the axis of heights points down."""
    lines = {}
    for path in svg.iter(f"{SVG}path"):
        style, points = path.attrib.get("style", ""), path.attrib["d"]
        for colour in COLOURS:
            if f"stroke: {colour}" in style and "clip-path" in path.attrib:
                numbers = list(map(float, re.findall(r"-?[\d.]+", points)))
                lines[colour] = list(zip(numbers[::2], numbers[1::2], strict=True))
    return lines


def test_curves_are_drawn_inside_the_frame_and_rise_where_scores_do() -> None:
    (text,) = re.findall(r"<svg.*?</svg>", study_report(study_result()), re.S)
    svg = ET.fromstring(text)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    lines = drawn_lines(svg)
    assert len(lines) == 3
    for x, y in (point for line in lines.values() for point in line):
        assert 0 <= x <= width
        assert 0 <= y <= height
    ema, pixels, random = (lines[colour] for colour in COLOURS[:3])
    assert [y for _, y in ema] == sorted((y for _, y in ema), reverse=True)
    assert ema[-1][1] < pixels[-1][1]
    assert [x for x, _ in ema] == [x for x, _ in pixels]
    assert random[0][1] == random[1][1]
    assert (random[0][0], random[1][0]) == (ema[0][0], ema[-1][0])
    points = [use for use in svg.iter(f"{SVG}use") if "fill-opacity: 0.6" in use.get("style", "")]
    assert len(points) == 2 * 2 * 3, "a point for each seed of each trained arm"
    words = [element.text for element in svg.iter(f"{SVG}text")]
    assert {"ema", "pixels", r"ran<dom $\nope$", "R2", "videos trained on", "4,096"} <= set(words)


def test_a_ratio_without_a_claim_says_so() -> None:
    unclear = asdict(DataEfficiencyRatio(1.3, 0.8, 2.0, why="the interval includes 1"))
    said = "N(pixels) / N(ema) = 1.30 [0.80, 2.00]: no claim, the interval includes 1"
    assert format_claim(unclear, "pixels", "ema") == said
    missing = asdict(DataEfficiencyRatio(None, why="no score is reached by both curves"))
    assert format_claim(missing, "pixels", "ema") == (
        "N(pixels) / N(ema): no claim, no score is reached by both curves"
    )


def test_every_curve_has_a_name_however_close_they_end() -> None:
    result = study_result()
    arms = {name: [[0.0, 0.1, 0.5]] for name in "abcdefg"}
    result["panels"][0]["arms"] = arms | {"pixels": [[0.1, 0.1, 0.0]]}
    (text,) = re.findall(r"<svg.*?</svg>", study_report(result), re.S)
    words = [element.text for element in ET.fromstring(text).iter(f"{SVG}text")]
    assert all(words.count(name) == 1 for name in (*arms, "pixels"))
