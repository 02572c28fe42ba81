"""The statistics of actions and states: against numpy's, the same wherever they are measured."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.data.action_stats import (
    ACTION_STATS_FILE,
    ActionStats,
    Moments,
    load_or_measure,
    measure_action_stats,
    pooled_mean_std,
)
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, STATES_FILE
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.action_videos import actions_of, pack_numbered_videos, states_of


def test_a_spread_in_parts_is_that_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(1000, 4)) * [1, 1e-3, 1e4, 0] + [0, 1e3, -1e5, 0.1]).astype(np.float32)
    parts = np.split(rows, [1, 17, 400, 999])
    whole = Moments.from_rows(parts[0])
    for part in parts[1:]:
        whole = whole.merged(Moments.from_rows(part))
    exact = rows.astype(np.longdouble)
    np.testing.assert_allclose(whole.mean, exact.mean(0).astype(float), rtol=1e-13)
    np.testing.assert_allclose(whole.std[:3], exact.std(0).astype(float)[:3], rtol=1e-10)
    assert whole.std[3] == 0
    assert Moments.from_dict(json.loads(json.dumps(whole.to_dict()))).to_dict() == whole.to_dict()


def test_pooling_is_that_of_what_is_drawn() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(3, 2, (50, 2)), rng.normal(-1, 0.5, (200, 2))
    one[:, 1] = other[:, 1] = 0.1  # never changes, in neither
    mean, std = pooled_mean_std([Moments.from_rows(one), Moments.from_rows(other)], [3.0, 1.0])
    drawn = np.concatenate([np.repeat(one, 12, 0), other])  # three rows of one to one of the other
    np.testing.assert_allclose(mean, drawn.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std[0], drawn[:, 0].std(), rtol=1e-12)
    assert (mean[1], std[1]) == (0.1, 1.0)


def check(motions: ActionStats, videos: int, frames: int = 20) -> None:
    actions = np.concatenate([actions_of(v, frames)[:-1] for v in range(videos)]).astype(float)
    states = np.concatenate([states_of(v, frames) for v in range(videos)]).astype(float)
    for name, rows in ((ACTIONS_FILE, actions), (STATES_FILE, states)):
        found = motions.most_common(name)
        assert found is not None
        clips, spread = found
        assert (clips, spread.rows) == (videos, len(rows))
        np.testing.assert_allclose(spread.mean, rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(spread.std, rows.std(0), rtol=1e-12, atol=0)


def test_the_last_row_of_actions_counts_for_nothing(tmp_path: Path) -> None:
    check(measure_action_stats(pack_numbered_videos(tmp_path), SilentProgress(), local=True), 6)


def test_it_is_measured_once_and_kept_beside_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, datasets = pack_numbered_videos(tmp_path), Storage(str(tmp_path / "datasets"))
    first = load_or_measure(index, datasets, SilentProgress(), local=True)
    kept = Path(index.uri, ACTION_STATS_FILE)
    assert json.loads(kept.read_text())["digest"] == index.digest
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.data.action_stats.measure_action_stats", None)
        again = load_or_measure(index, datasets, SilentProgress(), local=True)
    assert again.to_dict() == first.to_dict()
    # Of another dataset, as after packing anew into the same folder.
    kept.write_text(kept.read_text().replace(index.digest, "0" * 16))
    assert (
        load_or_measure(index, datasets, SilentProgress(), local=True).to_dict() == first.to_dict()
    )
    assert json.loads(kept.read_text())["digest"] == index.digest


def test_of_somebody_elses_dataset_it_is_kept_in_the_jobs_storage(tmp_path: Path) -> None:
    index, datasets = pack_numbered_videos(tmp_path), Storage(str(tmp_path / "mine"))
    Path(index.uri, "dataset.json").unlink()  # made by another tool
    before = sorted(Path(index.uri).iterdir())
    motions = load_or_measure(index, datasets, SilentProgress(), local=True)
    assert sorted(Path(index.uri).iterdir()) == before
    assert (tmp_path / "mine" / f"motion-{index.digest}" / ACTION_STATS_FILE).exists()
    assert (
        load_or_measure(index, datasets, SilentProgress(), local=True).to_dict()
        == motions.to_dict()
    )


def test_rates_and_what_is_missing_are_counted(tmp_path: Path) -> None:
    def some(video: int, made: dict[str, Any]) -> None:
        if video % 3 == 0:
            del made["actions"]

    index = pack_numbered_videos(tmp_path, videos=5, fps=Fraction(30000, 1001), change=some)
    motions = measure_action_stats(index, SilentProgress(), local=True)
    assert motions.clips == 5
    assert motions.most_common_fps == pytest.approx(29.97, abs=1e-3)
    assert motions.reasons == {ACTIONS_FILE: 2}
    assert motions.most_common(ACTIONS_FILE)[0] == 3  # type: ignore[index]
