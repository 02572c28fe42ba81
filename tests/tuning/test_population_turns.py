"""A population's turns: who gives way to whose child, and a driver that is killed in between."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import TuneJob
from orchestrator.job.loading.search_space import trial_name
from orchestrator.randomness import generator
from orchestrator.storage import Storage
from orchestrator.tuning.pbt_exploit import current_population, exploit, explore
from orchestrator.tuning.pbt_fork import (
    advance_generation,
    create_children,
    read_generations,
    weights_digest,
)
from orchestrator.tuning.sampling import sample_point
from orchestrator.tuning.trial_store import TrialRecord, TrialStore
from tests.support.sweeps import tune_job


def population(tmp_path: Path, **keys: Any) -> TuneJob:
    return tune_job(tmp_path, **({"scheduler": "pbt", "trials": 8, "budget": 20} | keys))


def scored(job: TuneJob, number: int, value: float | None) -> TrialRecord:
    """A member that has reached the first rung."""
    shut = [] if value is not None else ["rankme_share 0.1 is below 0.2"]
    row = {"steps": job.rungs[0], "objective": value, "loss": 0.0, "shut": shut}
    state = "running" if value is not None else "collapsed"
    return TrialRecord(number, sample_point(job, number, []), state, [row])  # type: ignore[arg-type]


VALUES = [0.1, 0.9, 0.3, None, 0.8, 0.2, 0.5, 0.05]


def entries_of(job: TuneJob) -> list[TrialRecord]:
    return [scored(job, number, value) for number, value in enumerate(VALUES)]


def test_the_worst_quarter_and_the_collapsed_give_way_to_children_of_the_best(
    tmp_path: Path,
) -> None:
    job = population(tmp_path)
    assert job.rungs == (2, 4, 8, 12, 16, 20)
    children = exploit(job, entries_of(job), 0)
    assert [(child["number"], child["replaces"]) for child in children] == [
        (8, 0),
        (9, 3),
        (10, 7),
    ]
    assert {child["parent"] for child in children} <= {1, 4}, "the best two of eight"
    assert all(child["steps"] == 2 for child in children)


def test_a_turn_does_not_depend_on_who_came_first(tmp_path: Path) -> None:
    job, entries = population(tmp_path), entries_of(population(tmp_path))
    children = exploit(job, entries, 0)
    random.Random(0).shuffle(entries)
    assert exploit(job, entries, 0) == children
    assert exploit(job.model_copy(update={"seed": 1}), entries, 0) != children


def test_what_collapsed_is_never_a_parent_whatever_it_scored(tmp_path: Path) -> None:
    job = population(tmp_path)
    lone = [scored(job, 0, 0.01), *(scored(job, number, None) for number in range(1, 8))]
    # Even one that was scored before it failed.
    lone[5] = replace(lone[5], state="failed", rungs=lone[0].rungs)
    children = exploit(job, lone, 0)
    assert [child["replaces"] for child in children] == list(range(1, 8))
    assert {child["parent"] for child in children} == {0}
    assert exploit(job, [scored(job, number, None) for number in range(8)], 0) == []


def test_values_move_a_little_or_are_drawn_anew_and_stay_in_the_space(tmp_path: Path) -> None:
    space = {
        "optim.lr": {"loguniform": [1e-4, 1e-2]},
        "optim.warmup": {"int": [1, 9]},
        "objective.ema": {"choice": [0.9, 0.99, 0.998]},
    }
    job = population(tmp_path, space=space)
    parent = {"optim.lr": 1e-3, "optim.warmup": 5, "objective.ema": 0.99}
    points = [explore(job, parent, generator(0, n, "explore")) for n in range(400)]
    rates = [point["optim.lr"] for point in points]
    near = sum(rate == pytest.approx(1e-3 * f) for rate in rates for f in (0.8, 1.2))
    assert near == pytest.approx(300, abs=30), "three in four move by a fifth"
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert {point["optim.warmup"] for point in points} == set(range(1, 10))
    beside = sum(point["objective.ema"] != 0.99 for point in points)
    assert beside == pytest.approx(400 * (0.75 + 0.25 * 2 / 3), abs=30)


def test_children_have_values_that_go_together(tmp_path: Path) -> None:
    # 20 steps: a warmup and a decay of up to 12 each are good alone, but not together.
    space = {"optim.warmup": {"int": [1, 12]}, "optim.decay": {"int": [1, 12]}}
    job = population(tmp_path, space=space, seed=3, trials=40)
    point = {"optim.warmup": 10, "optim.decay": 10}
    lone = scored(job, 0, 0.5)
    entries = [replace(lone, point=point)]
    entries += [replace(scored(job, n, None), point=point) for n in range(1, 40)]
    children = exploit(job, entries, 0)
    assert len(children) == 39
    assert len({tuple(child["point"].values()) for child in children}) > 5
    for child in children:
        assert sum(child["point"].values()) <= 20


def test_a_turn_cut_short_at_any_write_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(folder: Path) -> tuple[TuneJob, Storage, Storage]:
        job = population(folder)
        storage = Storage(str(folder))
        ledger = TrialStore(storage.subfolder("sweeps", job.name))
        for entry in entries_of(job):
            ledger.write(entry)
            checkpoint = f"runs/{trial_name(job, entry.number)}/checkpoints/step-00000002"
            file = {"rank-00000.safetensors": {"sha256": f"weights of {entry.number}"}}
            storage.write_bytes(f"{checkpoint}/rank-00000.safetensors", b"weights")
            storage.write_json(f"{checkpoint}/COMPLETE", {"layout": 1, "files": file})
        return job, storage, storage.subfolder("sweeps", job.name)

    job, storage, folder = prepared(tmp_path / "whole")
    advance_generation(job, storage, folder, TrialStore(folder).records(), 0)
    whole = TrialStore(folder).records()
    assert len(current_population(whole)) == 8
    child = whole[9]
    assert (child.replaces, child.steps, child.state) == (3, 2, "running")
    assert [part["from"] for part in child.schedule] == [0, 2]
    assert child.schedule[1]["values"] == child.point
    parent = storage.subfolder("runs", trial_name(job, child.parent or 0), "checkpoints")
    assert child.inherited["sha256"] == weights_digest(parent, "step-00000002")
    assert len({entry.inherited["sha256"] for entry in whole[8:]} - {""}) <= 2

    class Killed(Exception):
        pass

    def dies_after(writes: int) -> None:
        left = [writes]

        def counted(name: str) -> Any:
            real = getattr(Storage, name)

            def write(self: Storage, *args: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(self, *args)

            return write

        monkeypatch.setattr(Storage, "write_json", counted("write_json"))
        monkeypatch.setattr(Storage, "copy_file", counted("copy_file"))

    for writes in range(15):
        job, storage, folder = prepared(tmp_path / str(writes))
        with monkeypatch.context():
            dies_after(writes)
            with pytest.raises(Killed):
                advance_generation(job, storage, folder, TrialStore(folder).records(), 0)
            monkeypatch.undo()
        if read_generations(folder):
            for children in read_generations(folder):
                create_children(job, storage, TrialStore(folder), children)
        else:
            advance_generation(job, storage, folder, TrialStore(folder).records(), 0)
        found = TrialStore(folder).records()
        assert [replace(one, inherited={}) for one in found] == [
            replace(one, inherited={}) for one in whole
        ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search=tpe", "search: pbt moves values by itself"),
        ("trials=3", "trials: a population of pbt has 4 members at least"),
        ("space={model.encoder.depth: {int: [1, 3]}}", "pbt cannot move 'model.encoder.depth'"),
        ("space={data.size: {choice: [32, 64]}}", "pbt cannot move 'data.size'"),
    ],
)
def test_what_weights_cannot_be_inherited_under_is_refused(
    tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        tune_job(tmp_path, "scheduler=pbt", "trials=8", override)
