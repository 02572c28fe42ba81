"""What a person sees of a sweep while it runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from orchestrator.cli.progress_display import ProgressBars, ProgressLines
from orchestrator.job.config.tune import Budget
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tuning import sweep_state as heres
from orchestrator.tuning.launches import SweepLaunch, read_launches
from orchestrator.tuning.progress_table import table_header, table_rows
from orchestrator.tuning.slot_broker import SlotBrokerStatus
from orchestrator.tuning.sweep_state import SweepState
from orchestrator.tuning.trial_store import TrialRecord, TrialStore
from tests.support.sweeps import tune_job


def row(steps: int, objective: float | None, shut: list[str]) -> dict[str, Any]:
    return {"steps": steps, "objective": objective, "loss": 0.1, "shut": shut}


RUNNING = TrialRecord(2, {"optim.lr": 0.00123456, "objective.ema": 0.9}, rungs=[row(2, 0.25, [])])
COLLAPSED = TrialRecord(
    0,
    {"optim.lr": 0.01, "objective.ema": 0.0},
    "collapsed",
    [row(2, None, ["rankme_share 0.1 is below 0.2"])],
)


def test_a_row_says_what_varies_how_far_it_is_and_what_became_of_it(tmp_path: Path) -> None:
    job = tune_job(tmp_path)
    assert table_header(job) == ["trial", "lr", "ema", "step", "objective", "state"]
    assert table_rows(job, [COLLAPSED, RUNNING], {2: ("trains", 7)}) == [
        ["2", "0.001235", "0.9", "7/20 trains", "0.2500", "running"],
        ["0", "0.01", "0", "2/20", "", "collapsed: rankme_share 0.1 is below 0.2"],
    ]


def test_keys_that_end_alike_are_shown_whole(tmp_path: Path) -> None:
    space = {"optim.lr": {"uniform": [1e-4, 1e-3]}, "data.augment.scale.0": {"choice": [0.3]},
             "data.augment.aspect.0": {"choice": [0.9]}}  # fmt: skip
    head = table_header(tune_job(tmp_path, space=space))
    assert head[1:4] == ["lr", "data.augment.scale.0", "data.augment.aspect.0"]


def test_without_a_terminal_each_news_is_a_line_once() -> None:
    stream, head = io.StringIO(), ["trial", "lr", "step", "objective", "state"]
    lines = ProgressLines(stream)
    for step in (0, 1, 2):
        lines.table(head, [["0", "0.1", f"{step}/20 trains", "", "running"]])
    lines.table(head, [["0", "0.1", "20/20", "0.5000", "done"], ["1", "0.2", "0/20", "", "x"]])
    assert stream.getvalue().splitlines() == [
        "trial 0  lr 0.1  step 0/20 trains  state running",
        "trial 0  lr 0.1  step 20/20  objective 0.5000  state done",
        "trial 1  lr 0.2  step 0/20  state x",
    ]


def test_on_a_terminal_the_table_stands_below_the_bars() -> None:
    bars = ProgressBars(stderr=True)
    bars.update("sweep", 1, 4, {"best": 0.5})
    bars.table(["trial", "state"], [["3", "running [bold]"]])
    console = bars._bars.console
    with console.capture() as capture:
        for part in bars._bars.get_renderables():
            console.print(part)
    assert "running [bold]" in capture.get()
    assert capture.get().index("sweep") < capture.get().index("trial")


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_a_spent_budget_ends_the_sweep_once_and_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    """The limit counts what earlier launches took, and outlives the driver."""
    job = tune_job(tmp_path, "budget={steps: 20, gpu_hours: 2}")
    assert job.limits == Budget(steps=20, gpu_hours=2)
    folder, heard, stops = Storage(str(tmp_path / "sweeps")), Heard(), []
    taken = {"worker_s": 3600.0}

    class Desk:
        def status(self) -> SlotBrokerStatus:
            return SlotBrokerStatus({}, 3, taken["worker_s"], [(0.0, 1)])

        def request_stop(self) -> None:
            stops.append(True)

    monkeypatch.setattr(heres, "_call", lambda method: method())
    here = SweepState(job, TrialStore(folder), heard)
    launch = SweepLaunch(folder, [0, 1])
    here._poll(Desk(), launch)
    assert not here.is_stopping
    assert heard.lines == ["room for 3 trials at a time now, 1 before"]
    here._poll(Desk(), launch, last=True)

    again = SweepState(job, TrialStore(folder), heard)
    later = SweepLaunch(folder, [0, 1])
    taken["worker_s"] = 3599.0
    again._poll(Desk(), later)
    assert not again.is_stopping, "7,199 seconds of 7,200"
    taken["worker_s"] = 3601.0
    again._poll(Desk(), later)
    again._poll(Desk(), later, last=True)
    assert again.is_stopping
    assert again.limit_reached == "budget.gpu_hours 2"
    assert stops == [True]
    assert [one["worker_s"] for one in read_launches(folder)] == [3600.0, 3601.0]
