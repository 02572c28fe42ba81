"""Keys of jobs that had another name: read, said once, and the same job as before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import (
    build_job,
    differences,
    fingerprint,
    identity,
    job_dict,
    load_job,
    present_names,
)
from orchestrator.job.config.data import Data
from orchestrator.job.config.former_names import former_dump
from orchestrator.job.config.planning import CEM
from orchestrator.job.loading.former_keys import _warn_once

ACTING: dict[str, Any] = {
    "kind": "train",
    "name": "t",
    "data": {"source": "world://two-rooms?episodes=4", "frames": 4, "fps": 2.0, "size": 32},
    "model": {"encoder": {"kind": "conv", "dim": 16, "width": 8}, "patch": 8, "tubelet": 1},
    "objective": {"kind": "lewm"},
    "optim": {"steps": 2, "lr": 1e-3},
}


def acting(**data: Any) -> dict[str, Any]:
    return {**ACTING, "data": {**ACTING["data"], **data}}


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    _warn_once.cache_clear()


def test_both_names_make_the_same_job() -> None:
    former = build_job(acting(act={"actions": "given", "block": 5}))
    present = build_job(acting(actions={"representation": "given", "frameskip": 5}))
    assert former == present
    assert former.data.actions.frameskip == 5  # type: ignore[union-attr]
    assert fingerprint(former) == fingerprint(present)


def test_plain_data_has_the_present_name_and_identity_the_former_one() -> None:
    job = build_job(acting(act={"block": 5}))
    assert job_dict(job)["data"]["actions"]["frameskip"] == 5
    assert "act" not in job_dict(job)["data"]
    assert identity(job)["data.act.block"] == 5
    assert not any(key.startswith("data.actions") for key in identity(job))
    assert build_job(job_dict(job)) == job


def test_a_job_without_renamed_keys_keeps_its_identity() -> None:
    assert identity(build_job(ACTING))["data.act"] is None


@pytest.mark.parametrize("override", ["data.act.block=7", "data.actions.frameskip=7"])
@pytest.mark.parametrize("given", ["act", "actions"])
def test_an_override_of_either_name_counts(given: str, override: str) -> None:
    section = {"act": {"block": 5}, "actions": {"frameskip": 5}}[given]
    job = build_job(acting(**{given: section}), [override])
    assert job.data.actions.frameskip == 7  # type: ignore[union-attr]


def test_a_later_override_counts_under_either_name() -> None:
    job = build_job(acting(), ["data.actions.frameskip=3", "data.act.block=4"])
    assert job.data.actions.frameskip == 4  # type: ignore[union-attr]


def test_a_file_that_gives_both_names_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "kind: train\nname: t\ndata:\n  source: x\n  frames: 4\n  act: {block: 2}\n"
        "  actions: {frameskip: 2}\n"
    )
    with pytest.raises(RequestError, match=r"former name of 'data\.actions', and both") as error:
        load_job(file)
    assert error.value.where == f"{file}:6"
    assert error.value.exit_code == 2


def test_the_new_name_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("kind: evaluate\nname: e\nmodel: m\nrandom: 3\nsuite: {choose_quads: 2}\n")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            job = load_job(file)
    assert job.random_models == 3  # type: ignore[union-attr]
    assert [record.getMessage() for record in caplog.records] == [
        "'suite.choose_quads' is now 'suite.selection_quads'; the former name still works",
        "'random' is now 'random_models'; the former name still works",
    ]


def test_a_recorded_job_is_read_silently(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_job(acting(act={"block": 5}))
    assert caplog.records == []


def test_a_mistake_under_a_former_name_stands_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("kind: evaluate\nname: e\nmodel: m\nsuite:\n  choose_quads: many\n")
    with pytest.raises(RequestError, match=r"suite\.selection_quads: should be") as error:
        load_job(file)
    assert error.value.where == f"{file}:5"


def test_overrides_of_an_inner_job_have_two_names(tmp_path: Path) -> None:
    inner = {"kind": "evaluate", "name": "e", "suite": {"quads": 8}}
    for name in ("set", "overrides"):
        entry = {"every": 1, "job": inner, name: {"suite.quads": 4, "random": 0}}
        job = build_job({**ACTING, "evaluate": [entry]})
        (one,) = job.evaluate  # type: ignore[union-attr]
        assert (one.job.suite.quads, one.job.random_models) == (4, 0)


def test_sections_take_either_name_by_themselves() -> None:
    assert CEM(spread=0.5) == CEM(init_std=0.5)  # type: ignore[call-arg]
    data = {"source": "x", "frames": 4}
    assert Data(**data, act={"block": 2}) == Data(**data, actions={"frameskip": 2})
    with pytest.raises(ValueError, match="'spread' is now 'init_std'; give one"):
        CEM(spread=0.5, init_std=0.5)  # type: ignore[call-arg]


def test_digests_hash_the_former_names() -> None:
    dumped = former_dump(CEM(), without=("kind",))
    assert {"spread", "smooth", "carried"} <= dumped.keys()
    assert not {"init_std", "kind"} & dumped.keys()


def test_a_difference_is_shown_under_the_present_name() -> None:
    one = build_job(acting(actions={"frameskip": 5}))
    other = build_job(acting(actions={"frameskip": 6}))
    assert differences(identity(one), identity(other), present_names(other)) == [
        "data.actions.frameskip: 5 -> 6"
    ]
