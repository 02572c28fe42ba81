"""The suite is not fooled: cheats get no more than chance, who knows physics gets everything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import RequestError
from orchestrator.evaluation.evaluable import Evaluable, load_evaluable
from orchestrator.evaluation.measures.surprise import ContextSpec, encode_windows
from orchestrator.evaluation.suite import protocol
from orchestrator.evaluation.suite.driver import run_suite
from orchestrator.evaluation.suite.measure import measure_suite
from orchestrator.evaluation.suite.report import suite_report
from orchestrator.evaluation.suite.summary import summarize
from orchestrator.jepa.model_files import randomly_initialized_model
from orchestrator.job import EvaluateJob, build_job
from orchestrator.physics.suite.arrow_of_time import ARROW_OF_TIME_KINDS
from orchestrator.physics.suite.quads import EXPERIMENTAL_SCENARIOS, SCENARIOS, make_quad
from orchestrator.physics.suite.sanity import IMPOSSIBLE_EVENTS
from orchestrator.progress import SilentProgress
from orchestrator.report.figures import surprise_curve
from tests.support.known_models import (
    CONTEXT,
    FrameDifference,
    SurprisedBy,
    build_oracle,
    shuffled_quad,
    tier_videos,
)
from tests.support.tiny import model_config, tiny_job

JUDGED = [name for name in SCENARIOS if name not in EXPERIMENTAL_SCENARIOS]


def planted_job(model: str = "planted", **suite: Any) -> EvaluateJob:
    settings = {"quads": 8, "choose_quads": 2, "sanity": 0, "arrow": 0, **suite}
    job = build_job(
        {
            "kind": "evaluate",
            "name": "planted",
            "model": model,
            "suite": settings,
            "surprise": {"contexts": [CONTEXT]},
            "random": 2,
            "random_quads": 1,
        }
    )
    assert isinstance(job, EvaluateJob)
    return job


def judged(model: Evaluable, **suite: Any) -> dict[str, Any]:
    job = planted_job(**suite)
    return summarize(job, measure_suite(job, model, SilentProgress(), local=True))


@pytest.mark.integration
@pytest.mark.parametrize("expects", ["no change", "the same change"])
def test_frame_differences_for_features_do_not_beat_chance(expects: str) -> None:
    found = judged(FrameDifference(expects), sanity=8, arrow=8)
    assert found["overall"]["quad"]["low"] <= 0.25
    assert found["overall"]["pair"]["low"] <= 0.5
    assert all(row["quad"]["value"] <= 0.5 for row in found["scenarios"].values())
    assert found["gains"]["quad"]["over_baseline"]["low"] <= 0
    for tier in ("sanity", "arrow"):
        for row in found[tier].values():
            assert row["share"]["low"] <= 0.5, (tier, found[tier])


@pytest.mark.integration
def test_an_oracle_with_the_true_states_has_everything_right() -> None:
    knows = build_oracle(JUDGED, {"validation": 2, "test": 4}, make_quad)
    found = judged(knows, quads=4)
    assert set(found["scenarios"]) == set(JUDGED)
    assert found["overall"]["quad"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["overall"]["pair"]["value"] == 1.0
    assert all(row["auroc"] > 0.9 for row in found["scenarios"].values())
    over = found["gains"]["quad"]["over_random"]
    assert over["low"] > 0.3
    assert over["value"] == pytest.approx(1 - np.mean([one["quad"] for one in found["random"]]))


@pytest.mark.integration
def test_with_shuffled_labels_even_the_oracle_falls_to_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenarios = ["support", "permanence", "inertia"]
    knows = build_oracle(scenarios, {"validation": 2, "test": 24}, make_quad)
    right = judged(knows, scenarios=scenarios, quads=24)
    assert right["overall"]["quad"]["value"] == 1
    # How a video begins no longer tells its future from another's: all four are known beginnings.
    monkeypatch.setattr(protocol, "make_quad", shuffled_quad)
    lost = judged(knows, scenarios=scenarios, quads=24)
    assert lost["overall"]["quad"]["low"] <= 0.25 <= lost["overall"]["quad"]["high"]
    assert lost["overall"]["pair"]["low"] <= 0.5 <= lost["overall"]["pair"]["high"]


def test_the_tiers_ask_for_surprise_at_what_cannot_be() -> None:
    odd, fine = tier_videos("test", 2)
    options = {"scenarios": ["support"], "quads": 4, "sanity": 2, "arrow": 2}
    for films, share in ((odd, 1.0), (fine, 0.0)):
        found = judged(SurprisedBy(films), **options)
        assert set(found["sanity"]) == set(IMPOSSIBLE_EVENTS)
        assert set(found["arrow"]) == set(ARROW_OF_TIME_KINDS)
        rows = [*found["sanity"].values(), *found["arrow"].values()]
        assert [row["share"]["value"] for row in rows] == [share] * len(rows)
        assert all(0 <= row["random"] <= 1 for row in rows)


def test_the_headline_and_its_hash_do_not_depend_on_the_tiers() -> None:
    model = FrameDifference("no change")
    options = {"scenarios": ["support", "fall"], "quads": 4}
    without, beside = judged(model, **options), judged(model, **options, sanity=2, arrow=2)
    for key in ("protocol", "overall", "scenarios", "gains"):
        assert without[key] == beside[key]
    assert "sanity" not in without


@pytest.mark.integration
def test_a_model_of_ones_own_is_judged_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planted_job("tests.support.known_models:frame_difference", scenarios=["support"], quads=4)
    job = job.model_copy(update={"storage": str(tmp_path)})
    found = run_suite(job, SilentProgress(), local=True)
    assert found.summary["model"] == "tests.support.known_models:frame_difference"
    assert (tmp_path / "evaluations/planted/report.html").exists()


def test_what_cannot_be_judged_is_named_with_what_it_lacks() -> None:
    with pytest.raises(RequestError, match="it has no clip, masks, encode"):
        load_evaluable("builtins:object", "")


def test_a_report_of_a_planted_model_shows_every_part() -> None:
    job = planted_job(scenarios=["support", "fall"], quads=4, sanity=2, arrow=2)
    findings = measure_suite(job, FrameDifference("no change"), SilentProgress(), local=True)
    page = suite_report(summarize(job, findings), findings, "test")
    for title in ("By scenario", "Sanity", "Arrow of time", "Rollout", "Examples"):
        assert f"<h2>{title}" in page
    assert page.count("data:image/gif") == 2 * 2 * 2
    assert page.count("data:image/jpeg") == 2 * 2 * 4


def test_a_curve_is_broken_where_nothing_is_predicted() -> None:
    values = np.array([np.nan, 1.0, 2.0, np.nan, np.nan, 3.0, 1.0])
    drawn = surprise_curve(values, 1.0, 3.0, 2)
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: #2f6fdb', drawn)
    assert [len(run.split("L")) for run in line.split("M")[1:]] == [2, 2]


def test_clips_that_begin_alike_are_predicted_once_and_found_the_same() -> None:
    """Sharing is by content: numbers are those of each clip looked at alone."""
    model = randomly_initialized_model(model_config(tiny_job()), 0)
    quad = make_quad("support", "test", 0, size=32)
    clips = torch.from_numpy(quad.videos.reshape(4, *quad.videos.shape[2:])[:, 4:12].copy())
    calls: list[int] = []
    whole = model.foresee
    model.foresee = lambda z, mask=0: (calls.append(len(z)), whole(z, mask))[1]  # type: ignore
    view = ContextSpec(4, 0)
    together = encode_windows(model, clips, [view]).errors[view]
    assert calls == [2]
    for number, clip in enumerate(clips):
        alone = encode_windows(model, clip[None], [view]).errors[view][0]
        torch.testing.assert_close(together[number], alone, equal_nan=True)
