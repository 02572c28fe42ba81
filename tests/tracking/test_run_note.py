"""The text on top of a run's page."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.run import RunRef, write_result_description
from orchestrator.tracking.run_description import initial_description, result_description
from orchestrator.tracking.server import mlflow_client
from tests.support.mlflow_runs import tracked_job


@dataclass
class Ended:
    """A finished run."""

    seconds: float = 3725.0
    steps: int = 2000
    clips_per_s: float = 17.2
    model_uri: str = "models:/tiny/3"
    checkpoint: str = "step-00002000"
    next_steps: tuple[str, ...] = ("orchestrator ui",)
    metrics: dict[str, float] = field(
        default_factory=lambda: {"train/loss": 0.41234567, "health/rankme": 24.1}
    )
    dataset: dict[str, Any] = field(
        default_factory=lambda: {
            "clips": 2000,
            "hours": 2.0,
            "bytes": 5e7,
            "digest": "d1",
            "quarantined": 3,
        }
    )


def test_the_result_stands_in_the_lines_that_mlflow_shows_first() -> None:
    note = result_description(tracked_job(), Ended(), {})
    first = note.split("\n\n")[:2]
    assert "V-JEPA 2" in first[0]
    assert "`physics://mixed?clips=100`" in first[0]
    assert first[1] == "Result: **loss 0.4123, RankMe 24.1** after 2,000 steps."


def test_the_note_says_how_to_load_the_model_and_what_it_takes() -> None:
    note = result_description(tracked_job(), Ended(), {})
    assert 'load_model("models:/tiny@candidate")' in note
    assert "uint8 [B, 4, 16, 16, 3] -> float32 [B, 8, 24]" in note
    assert "2,000 clips, 2.0 h, 0.05 GB, digest `d1`, 3 quarantined" in note
    assert "1 h 2 min" in note
    assert "orchestrator ui" in note


def test_every_row_of_the_table_has_two_cells() -> None:
    note = result_description(tracked_job(data__source="a|b"), Ended(model_uri="/a|b"), {})
    rows = [line for line in note.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {3}


def test_a_run_is_described_from_its_start_to_its_end(new_run: Callable[..., RunRef]) -> None:
    job = tracked_job()
    ref = new_run(job)
    client = mlflow_client(ref.tracking_uri)
    tag = "mlflow.note.content"
    assert client.get_run(ref.run_id).data.tags[tag] == initial_description(job)
    assert "In training: 20 steps" in initial_description(job)
    log = RunLogger(ref, 0)
    for step in (500, 2000):
        log.log_picture(step, "feature_map", Image.new("RGB", (8, 8)))
    log.close()
    write_result_description(ref, job, Ended())
    note = client.get_run(ref.run_id).data.tags[tag]
    assert "Result: **loss 0.4123" in note
    file = f"get-artifact?path=pictures/feature_map/step-00002000.png&run_uuid={ref.run_id}"
    assert f"![feature map, step 2,000]({file})" in note
    assert "step-00000500" not in note
