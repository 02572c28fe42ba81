"""Violated expectations on miniature benchmarks: oracles, intervals, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from orchestrator.errors import JobFailed, RequestError
from orchestrator.evaluation.benchmarks import pairs
from orchestrator.evaluation.benchmarks import pairs_summary as scores
from orchestrator.evaluation.benchmarks.pairs import PairsRawResults, measure_pairs
from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.surprise import ContextSpec, SlidingWindows
from orchestrator.jepa.model_files import ClipShape, WorldModel, randomly_initialized_model
from orchestrator.job import EvaluateJob, build_job
from orchestrator.job.schema_listing import schema_lines
from orchestrator.progress import SilentProgress
from tests.support import benchmarks as made
from tests.support.known_models import SIDE, TUBELET, KnownModel
from tests.support.tiny import model_config, tiny_job


def job_of(kind: str, folder: Path, *changes: str, **options: Any) -> EvaluateJob:
    if kind == "intphys":
        options.setdefault("fps", made.FPS)
    job = build_job(
        {
            "kind": "evaluate",
            "name": "b",
            "model": "unused",
            "benchmark": {"kind": kind, "folder": str(folder), **options},
            "random": 0,
        },
        list(changes),
    )
    assert isinstance(job, EvaluateJob)
    return job


def judged(job: EvaluateJob, model: Evaluable, *, local: bool = True) -> PairsRawResults:
    return measure_pairs(job, job.benchmark, model, SilentProgress(), local=local)  # type: ignore[arg-type]


def verdict(job: EvaluateJob, findings: PairsRawResults) -> dict[str, Any]:
    return scores.summarize(job, job.benchmark, findings)  # type: ignore[arg-type]


def oracle(sign: float) -> Any:
    """Surprise of one who reads off the pixels whether the outcome fits the context."""

    def surprise(
        model: WorldModel, videos: np.ndarray, views: Sequence[ContextSpec], windows: SlidingWindows
    ) -> dict[ContextSpec, np.ndarray]:
        wrong = np.array(
            [context != outcome for context, outcome in map(made.context_and_outcome, videos)]
        )
        shape = (len(videos), len(windows.starts), windows.frames)
        error = np.zeros(shape, np.float32)
        error[..., -2:] = sign * wrong[:, None, None]  # it is known at the end
        return dict.fromkeys(views, error)

    return surprise


@pytest.mark.parametrize("kind", made.BENCHMARK_WRITERS)
def test_who_knows_gets_every_pair_right_and_who_knows_the_opposite_none(
    kind: str, tmp_path: Path, tiny_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(kind, made.copy_benchmark(kind, tmp_path))
    for sign, wanted in ((1.0, 1.0), (-1.0, 0.0)):
        monkeypatch.setattr(pairs, "surprise", oracle(sign))
        findings = judged(job, tiny_model)
        found = verdict(job, findings)
        for row in (found["overall"], *found["properties"].values()):
            assert {row[name]["value"] for name in ("pair", "all", "auroc")} == {wanted}
        assert found["counts"]["left_out"] == 0
        names = {one.scene.name for one in findings.model}
        assert names
        assert not names & set(findings.selection_scenes)


def test_an_eye_that_sees_oddness_only_is_at_chance_where_both_outcomes_occur(
    tmp_path: Path, tiny_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bright end surprises, whatever came before: quadruplets balance it out."""

    def surprise(
        model: WorldModel, videos: np.ndarray, views: Sequence[ContextSpec], windows: SlidingWindows
    ) -> dict[ContextSpec, np.ndarray]:
        light = videos[:, -1, ..., 1].mean((1, 2)).astype(np.float32)
        shape = (len(videos), len(windows.starts), windows.frames)
        return {view: np.broadcast_to(light[:, None, None], shape) for view in views}

    monkeypatch.setattr(pairs, "surprise", surprise)
    job = job_of("intphys", made.intphys(tmp_path, scenes=4))
    found = verdict(job, judged(job, tiny_model))
    assert found["overall"]["pair"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["overall"]["auroc"]["value"] == 0.5


def test_scores_count_ties_as_half_and_resample_scenes() -> None:
    scenes = [np.array([[1.0, 2.0], [3.0, 0.5]]), np.array([[1.0, 1.0]])]
    assert scores.pair_accuracy_by_scene(scenes).tolist() == [0.5, 0.5]
    # (1<2), (1<.5), (3<2), (3<.5): one of four; the lone pair is a tie.
    assert scores.cross_pair_accuracy_by_scene(scenes).tolist() == [0.25, 0.5]
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 6, (2, 2)).astype(float) for _ in range(30)]
    every = np.concatenate(many)
    more = every[:, 1][:, None] - every[:, 0][None]
    assert scores.pairs_auroc(many) == pytest.approx(((more > 0) + 0.5 * (more == 0)).mean())
    # A pair that is told twice within its scene says nothing new: the interval stays as wide.
    drawn = scores.bootstrap_scenes(many, scores.pairs_auroc)
    doubled = [np.concatenate([one, one]) for one in many]
    assert scores.bootstrap_scenes(doubled, scores.pairs_auroc).std() == pytest.approx(
        drawn.std(), rel=0.05
    )


def test_the_look_is_chosen_on_scenes_that_are_not_scored(
    tmp_path: Path, tiny_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One context is right on what is chosen on and wrong elsewhere: it is chosen all the same."""
    job = job_of("grasp", made.grasp(tmp_path, scenes=5))
    choosing = judged(job, tiny_model).selection_scenes
    blue = {20 * (int(name[-3:]) % 10) + 20 for name in choosing}
    assert len(choosing) == 2  # a fifth of each property's five

    def surprise(
        model: WorldModel, videos: np.ndarray, views: Sequence[ContextSpec], windows: SlidingWindows
    ) -> dict[ContextSpec, np.ndarray]:
        known = min(abs(float(videos[0, 0, ..., 2].mean()) - level) for level in blue) < 8
        found = {}
        for view in views:
            sign = 1.0 if (view.context == 2) == known else -1.0
            found |= oracle(sign)(model, videos, [view], windows)
        return found

    monkeypatch.setattr(pairs, "surprise", surprise)
    findings = judged(job, tiny_model)
    assert findings.scoring_rule.context_spec.context == 2
    assert findings.selection_accuracy[findings.scoring_rule] == 1.0
    unknown = [
        one for one in findings.model if 20 * (int(one.scene.name[-3:]) % 10) + 20 not in blue
    ]
    assert unknown
    scores_of = [one.scores[findings.scoring_rule] for one in unknown]
    assert all((each[:, 0] > each[:, 1]).all() for each in scores_of), "wrong in every pair"


def test_scenes_that_stand_in_both_splits_are_not_scored(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.copy_benchmark("intphys2", tmp_path)
    # Debug's first scene shows the videos of a scene of Main, under their names.
    for i in range(4):
        name = f"Videos/main_03_{i}.mp4"
        (tmp_path / "Debug" / name).write_bytes((tmp_path / "Main" / name).read_bytes())
    table = tmp_path / "Debug/metadata.csv"
    table.write_text(table.read_text().replace("debug_00_", "main_03_"))
    job = job_of("intphys2", tmp_path)
    findings = judged(job, tiny_model)
    found = verdict(job, findings)
    assert found["twins"] == ["Main/3_0"]
    assert "Main/3_0" not in {one.scene.name for one in findings.model}
    assert len(findings.model) == 7
    assert "of which 1 stand in Main too and are not scored there" in found["chosen_on"]
    assert len(judged(job_of("intphys2", tmp_path, choose="share"), tiny_model).model) == 4


def test_random_models_stand_beside_and_see_scenes_in_turn(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    folder = made.grasp(tmp_path, scenes=5)
    job = job_of("grasp", folder, "random=3", "random_quads=2")
    findings = judged(job, tiny_model)
    seen = [[one.scene.name for one in arm] for arm in findings.random_models]
    assert [len(names) for names in seen] == [4, 4, 4]
    assert {name for names in seen for name in names} == {one.scene.name for one in findings.model}
    found = verdict(job, findings)
    assert len(found["random"]) == 3
    pair = found["overall"]["pair"]
    mean = np.mean([one["pair"] for one in found["random"]])
    assert found["gain"]["over_random"] == pytest.approx(pair["value"] - mean)
    for row in found["properties"].values():
        assert row["pair"]["low"] <= row["pair"]["value"] <= row["pair"]["high"]
        assert row["random"]["best_pair"] >= row["random"]["pair"]
    # An arm is the random model of its seed.
    alone = pairs.measure_unit(
        (
            randomly_initialized_model(tiny_model.config, 1),
            *_shared(folder, tiny_model, findings)[1:],
        ),
        pairs.PairsUnit(None, tuple(one.scene for one in findings.random_models[1])),
    )
    for one, other in zip(alone, findings.random_models[1], strict=True):
        assert (one.scores[findings.scoring_rule] == other.scores[findings.scoring_rule]).all()  # type: ignore[union-attr]


def _shared(folder: Path, model: WorldModel, findings: PairsRawResults) -> pairs.PairsContext:
    return model, pairs.Storage(str(folder)), findings.protocol


def test_the_hash_names_the_protocol_and_not_the_place(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.copy_benchmark("grasp", tmp_path / "here")
    made.copy_benchmark("grasp", tmp_path / "there")

    def found(place: str, *changes: str, **options: Any) -> str:
        job = job_of("grasp", tmp_path / place, *changes, **options)
        return str(verdict(job, judged(job, tiny_model))["protocol"])

    first = found("here")
    assert found("there", bad_limit=0.5) == first
    assert found("here", "surprise.stride=2") != first
    assert found("here", "surprise.context_frames=[2]") != first
    assert found("here", properties=["Collision"]) != first
    (tmp_path / "there/level2/P_Collision/000.mp4").unlink()
    assert found("there", bad_limit=0.5) != first


def test_unreadable_files_end_the_job_or_are_left_out_by_name(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.grasp(tmp_path, scenes=6)
    broken = tmp_path / "level2/IP_Collision/002.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "level2/P_Inertia2/004.mp4").write_bytes(b"")
    with pytest.raises(JobFailed) as error:
        judged(job_of("grasp", tmp_path), tiny_model)
    text = str(error.value)
    assert "of 12 scenes cannot be used" in text
    assert "Collision/002: level2/IP_Collision/002.mp4: not a readable video" in text or (
        "Inertia2/004" in text
    )
    assert "benchmark.bad_limit=0." in text

    job = job_of("grasp", tmp_path, bad_limit=0.2)
    findings = judged(job, tiny_model)
    found = verdict(job, findings)
    assert [one["scene"] for one in found["left_out"]] == ["Collision/002", "Inertia2/004"]
    assert found["counts"]["left_out"] == 2
    assert found["counts"]["scored"] + found["counts"]["chosen_on"] == 10
    assert "Collision/002" not in {one.scene.name for one in findings.model}


def test_a_set_of_which_nothing_can_be_used_is_never_a_number(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.copy_benchmark("grasp", tmp_path)
    for file in (tmp_path / "level2").glob("IP_*/*"):
        file.unlink()
    with pytest.raises(RequestError, match="6 of 6 scenes cannot be used"):
        judged(job_of("grasp", tmp_path, bad_limit=0.99), tiny_model)
    for file in (tmp_path / "level2").glob("P_*/*"):
        file.unlink()
        made.write_video(
            file.parent.parent / f"I{file.parent.name}" / file.name,
            np.zeros((8, 16, 16, 3), np.uint8),
        )
        file.write_bytes(b"x")
    with pytest.raises(JobFailed, match=r"6 of 6|no scene is left to choose on: Collision/00"):
        judged(job_of("grasp", tmp_path, bad_limit=0.99), tiny_model)


class Matches(KnownModel):
    """A model of one's own: it expects the outcome (green) to be what the context (red) is."""

    clip = ClipShape(32, 8, 8.0, TUBELET, (4, SIDE, SIDE))

    def encode(self, video: Tensor, seen: int | None = None) -> Tensor:
        colours = video[:, :seen].float().mean((2, 3))[..., :2]
        return self.by_moment(colours.unflatten(1, (-1, TUBELET)).mean(2))

    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        rest = self.clip.grid[0] * self.clip.tokens_per_timestep - features.shape[1]
        return features[:, -1:, :1].expand(-1, rest, 2)


@pytest.mark.parametrize("kind", ["grasp", "intphys2"])
def test_a_model_of_ones_own_is_judged_too(kind: str, tmp_path: Path) -> None:
    found = verdict(
        job_of(kind, tmp_path), judged(job_of(kind, made.copy_benchmark(kind, tmp_path)), Matches())
    )
    assert found["overall"]["pair"]["value"] == 1


def test_a_folder_that_is_not_there_is_not_called_another_benchmarks(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    for kind in made.BENCHMARK_WRITERS:
        with pytest.raises(RequestError, match="no such folder"):
            judged(job_of(kind, tmp_path / "nothing"), tiny_model)


def test_a_lost_picture_is_found_when_it_is_looked_at(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.copy_benchmark("intphys", tmp_path)
    (tmp_path / "O1/01/2/scene/scene_003.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(JobFailed, match=r"O1/01: .*'scene_003.png' is no readable picture"):
        judged(job_of("intphys", tmp_path), tiny_model)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"frames": 16}, "has 12 frames at 8 a second, the model's clip has 16"),
        ({"fps": 24.0}, "has 16 frames a second, the model was trained on 24"),
    ],
)
def test_a_model_whose_clip_does_not_fit_is_refused_with_every_scene_counted(
    data: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = randomly_initialized_model(model_config(tiny_job(**data)), 0)
    made.grasp(tmp_path, names=("Collision",))
    with pytest.raises(
        JobFailed, match=rf"1 of 3 scenes cannot be used, of those looked at so far:\n.*{said}"
    ):
        judged(job_of("grasp", tmp_path), model)
    with pytest.raises(JobFailed, match=rf"no scene is left to choose on: .*{said}"):
        judged(job_of("grasp", tmp_path, bad_limit=0.9), model)


def test_a_context_that_is_no_part_of_the_clip_is_refused_before_the_folder_is_read(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    with pytest.raises(RequestError, match="a context of 5 frames"):
        judged(job_of("grasp", tmp_path / "nothing", "surprise.context_frames=[5]"), tiny_model)


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ({"kind": "intphys2", "choose": "Main"}, "'Main' is for scoring: choosing on it would"),
        ({"kind": "intphys2", "choose": "HeldOut"}, "'HeldOut' is for scoring"),
        ({"kind": "intphys2", "split": "Debug"}, "'Debug' is what is chosen on"),
        ({"kind": "clevrer", "choose": "validation"}, "'validation' is for scoring"),
        ({"kind": "clevrer", "choose": "test"}, "'test' is for scoring"),
        ({"kind": "grasp", "choose_share": 1.0}, "selection_fraction"),
    ],
)
def test_what_is_scored_is_never_chosen_on(benchmark: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        build_job(
            {
                "kind": "evaluate",
                "name": "b",
                "model": "m",
                "benchmark": {"folder": "f", **benchmark},
            }
        )


def test_every_key_of_a_benchmark_is_listed() -> None:
    lines = list(schema_lines("evaluate"))
    kinds = {line.value for line in lines if line.key == "kind"}
    assert {*made.BENCHMARK_WRITERS, "moving-mnist", "clevrer"} < kinds
    keys = {line.key: line.text for line in lines}
    for key in ("folder", "selection_fraction", "bad_limit", "properties", "priming", "fps"):
        assert len(keys[key]) > 20


def test_a_suite_and_a_benchmark_are_two_jobs(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a suite beside a benchmark"):
        job_of("grasp", tmp_path, "suite.quads=4")
