"""A probe as a job: from features on disk to a verdict, a page and an MLflow run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import run
from orchestrator.cli.run import show_summary
from orchestrator.errors import RequestError
from orchestrator.evaluation.probes.driver import evaluate_probe
from orchestrator.evaluation.probes.fit import split_rows
from orchestrator.features import Features
from orchestrator.features.driver import run_embed
from orchestrator.features.store import claim_identity, commit_unit, finalize_features
from orchestrator.job import EvaluateJob, build_job
from orchestrator.job.config.probe import ProbeConfig
from orchestrator.job.fingerprint import flatten
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tracking.run import job_of_run
from orchestrator.tracking.server import mlflow_client
from tests.support.embedding import embed_job, save_tiny_model, write_noise_videos
from tests.support.reports import external_references

SCENES = "physics://mixed?clips=42&size=32&fps=16&seconds=3"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with features of simulated scenes, two clips each: of a model as tokens and as
    means, and of one that has learnt nothing."""
    folder = tmp_path_factory.mktemp("probe")
    save_tiny_model(folder / "model")
    kinds: dict[str, dict[str, Any]] = {
        "tokens": {"pooling": "tokens"},
        "untrained": {"pooling": "tokens", "untrained": 0},
        "means": {},
        "others": {"pooling": "tokens", "data__source": f"{SCENES}&seed=9"},
    }
    for name, changes in kinds.items():
        job = embed_job(folder, folder / "model", SCENES, name=name, data__clips=2, **changes)
        run_embed(job, SilentProgress(), local=True)
    return folder


def probe_job(folder: Path, model: str = "", **probe: Any) -> EvaluateJob:
    job = build_job(
        {
            "kind": "evaluate",
            "name": "probed",
            "storage": str(folder),
            "model": model,
            "probe": {"features": "tokens", "target": "states", **probe},
        }
    )
    assert isinstance(job, EvaluateJob)
    return job


def probed(job: EvaluateJob, *, local: bool = True) -> dict[str, Any]:
    assert job.probe is not None
    return evaluate_probe(job, job.probe, SilentProgress(), local=local)


@pytest.mark.integration
def test_states_beside_random_weights_and_no_features(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = probe_job(here, str(here / "model"), random="untrained")
    found = run(job, local=True)
    verdict = json.loads((here / "evaluations/probed/verdict.json").read_text())
    assert verdict == json.loads(json.dumps(found.probe))
    assert set(verdict["arms"]) == {"model", "random", "baseline"}
    for arm in found.probe["arms"].values():
        assert list(arm["scores"]) == ["x", "y", "vx", "vy", "contact"]
        for name, score in arm["scores"].items():
            assert score["metric"] == ("average precision" if name == "contact" else "R2")
            if score["value"] is not None:
                assert score["low"] <= score["value"] <= score["high"]
    own = verdict["arms"]["model"]["scores"]["x"]
    costs = {one["penalty"]: one["validation"] for one in own["cost"]}
    assert costs[own["chosen"]["penalty"]] == min(costs.values())
    assert verdict["arms"]["baseline"]["scores"]["x"]["value"] <= 0
    features = Features.open(str(here / "features/tokens"))
    assert verdict["features"]["model"]["model"] == features.model_digest
    assert sum(side["videos"] for side in verdict["split"].values()) <= 42

    page = (here / "evaluations/probed/report.html").read_text()
    assert external_references(page) == []
    assert f"{own['value']:.3f}" in page
    assert verdict["protocol"] in page
    kept = mlflow_client(found.tracking_uri).get_run(found.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics["probe/x"] == pytest.approx(own["value"])
    assert kept.data.metrics["probe/random/x_low"] <= kept.data.metrics["probe/random/x"]
    assert kept.data.tags["protocol"] == verdict["protocol"]
    again = build_job(job_of_run(found.tracking_uri, found.run_id))
    assert again == job, "the run's job can be run again"

    show_summary(found)
    said = capsys.readouterr().out
    assert re.search(rf"x +R2 {own['value']:.3f} \[.*random weights .*without features", said)
    assert f"protocol {verdict['protocol']}" in said


def test_labels_by_attention_with_every_rate_in_one_pass(here: Path) -> None:
    head = {"kind": "attentive", "lrs": [3e-3, 1e-4], "weight_decays": [0.01, 0.4], "epochs": 3}
    job = probe_job(here, target="label", head=head)
    verdict = probed(job)
    assert verdict["classes"] == 7
    score = verdict["arms"]["model"]["scores"]["label"]
    tried = [(one["lr"], one["weight_decay"]) for one in score["cost"]]
    assert tried == [(3e-3, 0.01), (3e-3, 0.4), (1e-4, 0.01), (1e-4, 0.4)]
    assert score["metric"] == "top-1"
    best = min(one["validation"] for one in score["cost"])
    chosen = next(
        one
        for one in score["cost"]
        if {k: v for k, v in one.items() if k != "validation"} == score["chosen"]
    )
    assert chosen["validation"] == best
    assert probed(job) == verdict, "the same job gives the same numbers"
    # Every family has the same share of the scored videos: the most frequent is 1 of 7.
    assert verdict["arms"]["baseline"]["scores"]["label"]["value"] == pytest.approx(1 / 7)


def planted(here: Path, name: str, *, shuffled: bool = False) -> None:
    """Features of the same clips that are the states themselves, worked out from the simulator's
    rows: of the right clip, or of another."""
    source = Features.open(str(here / "features/tokens"))
    table = source.table(["states", "states_shape", "subject", "contacts"])
    oracle = np.zeros((len(table), 4, 5), np.float32)
    for row, out in zip(table.to_pylist(), oracle, strict=True):
        frames = np.array(row["states"]).reshape(row["states_shape"])[:, row["subject"]]
        for tubelet in range(4):
            for column, wanted in enumerate((0, 1, 3, 4)):
                both = frames[2 * tubelet, wanted], frames[2 * tubelet + 1, wanted]
                out[tubelet, column] = sum(both) / 2
            out[tubelet, 4] = any(
                tubelet * 0.25 <= one["time"] < (tubelet + 1) * 0.25
                and f"thing {row['subject']}" in (one["a"], one["b"])
                for one in row["contacts"]
            )
    if shuffled:
        oracle = oracle[np.random.default_rng(0).permutation(len(oracle))]
    identity = {**source.identity, "pooling": "frames", "dim": 5}
    rows = source.table(
        [name for name in pq.read_schema(first_part(source)).names if name != "features"]
    )
    field = pa.field("features", pa.fixed_shape_tensor(pa.float32(), (4, 5)))
    rows = rows.append_column(field, pa.FixedShapeTensorArray.from_numpy_ndarray(oracle))
    folder = Storage(str(here / "features" / name))
    claim_identity(folder, name, identity)
    report = commit_unit(folder, 0, rows, [], {"name": name, "identity": identity})
    finalize_features(folder, [report], {**source.info, "identity": identity, "shape": [4, 5]})


def first_part(features: Features) -> Path:
    return Path(features.folder.root) / str(features.info["parts"][0]["file"])


def test_what_knows_the_states_scores_one_and_what_knows_those_of_others_nothing(
    here: Path,
) -> None:
    planted(here, "oracle")
    scores = probed(probe_job(here, features="oracle"))["arms"]["model"]["scores"]
    assert all(score["value"] > 0.999 for score in scores.values())
    planted(here, "liar", shuffled=True)
    verdict = probed(probe_job(here, features="liar"))
    scores = verdict["arms"]["model"]["scores"]
    assert all(scores[name]["value"] < 0.15 for name in ("x", "y", "vx", "vy"))
    chance = verdict["arms"]["baseline"]["scores"]["contact"]["value"]
    assert scores["contact"]["low"] < chance + 0.1


def test_attention_reads_states_too(here: Path) -> None:
    head = {"kind": "attentive", "lrs": [3e-3, 1e-7], "weight_decays": [0.01], "epochs": 10}
    scores = probed(probe_job(here, head=head))["arms"]["model"]["scores"]
    assert list(scores) == ["x", "y", "vx", "vy", "contact"]
    for name in ("x", "y"):
        learned, untouched = (one["validation"] for one in scores[name]["cost"])
        assert learned < untouched
        assert scores[name]["chosen"]["lr"] == 3e-3


def test_both_clips_of_a_video_are_on_one_side(here: Path) -> None:
    features = Features.open(str(here / "features/tokens"))
    rows = features.table(["video", "subject"]).to_pylist()
    assert {row["subject"] >= 0 for row in rows} == {True, False}
    videos = np.array([row["video"] for row in rows])
    for target in ("label", "states"):
        probe = ProbeConfig.model_validate({"features": "tokens", "target": target})
        sides = split_rows(probe, features, None)
        names = {
            side: set(videos[one.targets.clip_index[one.rows]].tolist())
            for side, one in sides.items()
        }
        assert not names["train"] & names["validation"]
        assert not names["train"] & names["test"]
        assert not names["validation"] & names["test"]
        one_moves = {row["video"] for row in rows if row["subject"] >= 0}
        wanted = set(videos.tolist()) if target == "label" else one_moves
        assert set.union(*names.values()) <= wanted
        assert len(set.union(*names.values())) >= 0.9 * len(wanted)


def test_other_videos_may_be_what_is_scored(here: Path) -> None:
    job = probe_job(here, test="others")
    verdict = probed(job)
    assert verdict["split"]["test"]["videos"] >= 14
    assert verdict["left_out"] > 0
    assert verdict["features"]["model"]["test"]["data"] != verdict["features"]["model"]["data"]
    assert verdict["protocol"] != probed(probe_job(here))["protocol"]
    with pytest.raises(
        RequestError, match=r"\d+ videos are in probe\.features and in probe\.test_features"
    ):
        probed(probe_job(here, test="tokens"))


def test_the_protocol_is_of_what_is_asked_and_not_of_the_model(here: Path) -> None:
    first = probed(probe_job(here))["protocol"]
    assert probed(probe_job(here, features="untrained"))["protocol"] == first
    assert probed(probe_job(here, split={"seed": 1}))["protocol"] != first
    assert probed(probe_job(here, features="others"))["protocol"] != first


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"features": "tokns"}, "no features 'tokns'"),
        ({"features": "means"}, "states change within a clip"),
        ({"random": "others"}, "of other data"),
        ({"random": "tokens"}, "of a trained model"),
        ({"features": "means", "target": "label", "random": "untrained"}, "made in another way"),
        (
            {"features": "means", "target": "label", "head": {"kind": "attentive"}},
            "nothing to attend to",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(
    here: Path, probe: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        probed(probe_job(here, **probe))


def test_features_of_another_model_and_without_labels_are_refused(
    here: Path, tmp_path: Path
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(RequestError, match="of another model"):
        probed(probe_job(here, str(other)))
    videos = write_noise_videos(tmp_path / "videos", [2.5] * 3)
    job = embed_job(tmp_path, here / "model", videos)
    where = run_embed(job, SilentProgress(), local=True).uri
    with pytest.raises(RequestError, match="have no labels"):
        probed(probe_job(tmp_path, features=where, target="label"))


def test_a_job_has_a_suite_or_a_probe() -> None:
    rest = {"kind": "evaluate", "name": "n"}
    with pytest.raises(RequestError, match="belongs to a suite"):
        build_job({**rest, "probe": {"features": "f"}, "suite": {"quads": 4}})
    with pytest.raises(RequestError, match="model: this key is required"):
        build_job(rest)
    with pytest.raises(RequestError, match=r"probe\.random_test_features: is needed"):
        build_job({**rest, "probe": {"features": "f", "test": "t", "random": "r"}})


@pytest.mark.integration
def test_on_ray_the_numbers_are_the_same(here: Path) -> None:
    job = probe_job(here, random="untrained")
    there, here_too = flatten(probed(job, local=False)), flatten(probed(job))
    assert there.keys() == here_too.keys()
    for key, value in there.items():
        # Other numbers of threads round otherwise.
        same = pytest.approx(here_too[key], rel=1e-9) if type(value) is float else here_too[key]
        assert value == same, key
    with pytest.raises(RequestError, match="nothing to attend to"):
        probed(
            probe_job(here, features="means", target="label", head={"kind": "attentive"}),
            local=False,
        )
