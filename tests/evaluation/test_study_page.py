"""The page of a study: well-formed, inside its frame, and it claims what the numbers allow."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from typing import Any

from orchestrator.study.curves import DataEfficiencyRatio
from orchestrator.study.report import HEIGHT, WIDTH, format_claim, study_report


def made_result() -> dict[str, Any]:
    panel = {
        "background": "moving",
        "score": "position",
        "arms": {
            "ema": [[0.1, 0.3, 0.5], [0.2, 0.3, 0.6]],
            "pixels": [[-0.4, 0.0, 0.2], [0.0, 0.1, 0.1]],
            "ran<dom": [[0.05], [0.07]],
        },
        "ratios": {"ema": asdict(DataEfficiencyRatio(4.2, 2.0, 9.0, claim=True))},
    }
    return {
        "name": "needs",
        "clips": [16, 64, 256],
        "seeds": [0, 1],
        "steps": 10,
        "global_batch": 4,
        "reference": "pixels",
        "source": "physics://mixed?size=48&fps=8",
        "probe": {"fit": 10, "score": 4, "seed": 1},
        "panels": [panel],
    }


def test_the_curves_are_drawn_inside_the_frame_and_rise_where_scores_do() -> None:
    text = study_report(made_result())
    assert "ran<dom" not in text
    assert "physics://mixed?size=48&amp;fps=8" in text
    (svg,) = re.findall(r"<svg.*?</svg>", text)
    root = ET.fromstring(svg)
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in root.iter("polyline")
    ]
    assert len(lines) == 3
    for x, y in (point for line in lines for point in line):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    ema, pixels, random = lines
    assert [y for _, y in ema] == sorted((y for _, y in ema), reverse=True)
    assert ema[-1][1] < pixels[-1][1]
    assert [x for x, _ in ema] == [x for x, _ in pixels]
    assert random[0][1] == random[1][1]
    assert (random[0][0], random[1][0]) == (ema[0][0], ema[-1][0])
    assert len(list(root.iter("circle"))) == 2 * 2 * 3
    assert "N(pixels) / N(ema) = 4.20 [2.00, 9.00]</li>" in text


def test_a_ratio_without_a_claim_says_so() -> None:
    unclear = asdict(DataEfficiencyRatio(1.3, 0.8, 2.0, why="the interval includes 1"))
    said = "N(pixels) / N(ema) = 1.30 [0.80, 2.00]: no claim, the interval includes 1"
    assert format_claim(unclear, "pixels", "ema") == said
    apart = asdict(DataEfficiencyRatio(None, why="no score is reached by both curves"))
    assert format_claim(apart, "pixels", "ema") == (
        "N(pixels) / N(ema): no claim, no score is reached by both curves"
    )


def test_names_of_curves_that_end_together_can_be_read_inside_the_frame() -> None:
    made = made_result()
    arms = {
        name: [[0.0, 0.1, end]]
        for name, end in zip("abcdef", (0, 0, 0.001, 0, 0.9, 0), strict=True)
    }
    made["panels"][0]["arms"] = arms | {"pixels": [[0.1, 0.1, 0.0]]}
    (svg,) = re.findall(r"<svg.*?</svg>", study_report(made))
    names = {text.text: float(text.attrib["y"]) for text in ET.fromstring(svg).iter("text")}
    heights = sorted(names[name] for name in made["panels"][0]["arms"])
    assert all(below - above >= 11 for above, below in itertools.pairwise(heights))
    assert heights[-1] <= HEIGHT
    assert min(names, key=lambda name: abs(names[name] - heights[0])) == "e", "the best is on top"
    assert {"R2", "videos trained on"} <= names.keys()
