"""What a trial is worth: an objective on videos that no trial was trained on, behind gates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.features.clip_annotations import AMBIGUOUS_SUBJECT, ClipAnnotations
from orchestrator.jepa.model_files import WorldModel, randomly_initialized_model
from orchestrator.job import Data, Model, TrainJob, TuneJob
from orchestrator.job.config.trial_objective import (
    PREDICTOR_METRICS,
    CollapseGates,
    TrialObjective,
)
from orchestrator.physics.simulated_video import STATE_COLUMNS
from orchestrator.physics.uri import parse_physics_uri
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.study.state_probe import make_probe_videos
from orchestrator.training.health import feature_std, rankme, token_cosine
from orchestrator.tuning import trial_metrics as objectives
from orchestrator.tuning.holdout import HoldoutClip, load_holdout_clips, prepare_holdout
from orchestrator.tuning.trial_metrics import ProbeClips, Scores

STATE_NAMES = ("x", "y", "vx", "vy")
STATE_GROUPS = {"position": (0, 1), "velocity": (2, 3)}
"""States of simulated scenes, and what is made of them."""


@dataclass(frozen=True)
class Holdout:
    """What trials are judged on."""

    objective: TrialObjective
    metric: str
    """What they are ranked by: never `auto`."""

    videos: np.ndarray
    """What is scored, and what the gates look at: uint8 [clips, T, size, size, 3]."""

    probe_fit: ProbeClips | None = None
    """Of `probe`: what it is fitted to."""

    probe_test: ProbeClips | None = None
    """Of `probe`: what it is scored on."""

    state_names: tuple[str, ...] = ()
    """Of `probe`: the states, or nothing where classes are read."""


@dataclass(frozen=True)
class _SimulatedClips:
    """What decides the simulated videos of a trial."""

    data: Data
    model: Model
    probe: TrialObjective


def prepare_holdout_for(
    job: TuneJob, folder: Storage, progress: Progress, *, local: bool = False
) -> None:
    """Hold videos out, and make sure that the job's objective can be had of them.

    Raises:
        RequestError: it cannot; no trial was started.
        JobFailed: packing stopped; what is committed stays.
    """
    if job.objective.is_simulated(job.train):
        return
    prepare_holdout(job, folder, progress, local=local)
    metric, train = load_holdout(job, job.train).metric, job.train
    if metric == "retrieval" and train.data.frames == train.model.tubelet:
        raise RequestError(
            "a clip of one moment has no future to retrieve",
            where="train.data.frames",
            hint=f"write {2 * train.model.tubelet} or more, or name labelled videos",
        )
    alone = train.objective_config.predicts_without_actions() and train.data.actions is None
    if metric in PREDICTOR_METRICS and not alone:
        raise RequestError(
            f"the held-out videos carry neither states nor labels, and a model of"
            f" '{train.objective.kind}' has no predictor to retrieve with, or one that must be"
            " told what is done",
            where="objective.metric",
            hint="name labelled videos as objective.source",
        )


def load_holdout(job: TuneJob, train: TrainJob, *, unseen: bool = False) -> Holdout:
    """What a trial of `train` is judged on, as its model sees video.

    Args:
        unseen: videos that no trial is scored on: for a winner, who was chosen by its score.

    Raises:
        RequestError: the held-out videos do not carry what is to be read.
    """
    asked = job.objective
    if asked.is_simulated(train):
        other_seed = asked.model_copy(update={"seed": asked.seed + 1})
        return _simulated(other_seed if unseen else asked, train)
    clips = load_holdout_clips(job, train)
    score = min(asked.scored_videos, len(clips) // 3)
    scored, spare, rest = clips[:score], clips[score : 2 * score], clips[2 * score :]
    scored = spare if unseen else scored
    videos = np.stack([clip.pixels for clip in scored])
    known = None
    if asked.metric in ("auto", "probe"):
        seen = {clip.video for clip in scored}  # no segment of a scored video is fitted to
        fit = [clip for clip in rest if clip.video not in seen]
        known = _states(fit, scored, train.model.tubelet) or _labels(fit, scored)
    if known is not None:
        return Holdout(asked, "probe", videos, *known)
    if asked.metric == "probe":
        raise RequestError(
            "the held-out videos carry neither states nor two kinds of labels",
            where="objective.metric",
            hint="write retrieval, which needs none, or name other videos as objective.source",
        )
    return Holdout(asked, "quads" if asked.metric == "quads" else "retrieval", videos)


def _simulated(asked: TrialObjective, train: TrainJob) -> Holdout:
    source = asked.source or train.data.source or ""
    data = train.data.model_copy(update={"source": source})
    fit, held = make_probe_videos(
        _SimulatedClips(data, train.model, asked), parse_physics_uri(source).background
    )
    if asked.metric not in ("auto", "probe"):
        return Holdout(asked, asked.metric, held.videos)
    fitted, scored = (ProbeClips(some.videos, some.states) for some in (fit, held))
    return Holdout(asked, "probe", held.videos, fitted, scored, STATE_NAMES)


ProbeData = tuple[ProbeClips, ProbeClips, tuple[str, ...]]
"""What a probe is fitted to, what it is scored on, and the names of the states."""


def _states(fit: list[HoldoutClip], held: list[HoldoutClip], tubelet: int) -> ProbeData | None:
    """The states of clips that have them; None where they are too few, or of several kinds."""
    sides, names = [], set()
    for clips in (fit, held):
        found = [(clip, _of_tubelets(clip.annotations, tubelet)) for clip in clips]
        some = [(clip.pixels, states) for clip, states in found if states is not None]
        if len(some) < len(clips) / 2 or not some:
            return None
        names |= {states.shape[1] for _, states in some}
        if len(names) > 1:
            return None
        sides.append(ProbeClips(*(np.stack(part) for part in zip(*some, strict=True))))
    fitted, scored = sides
    if all(clip.annotations.subject is not None for clip in held):
        return fitted, scored, STATE_NAMES
    return fitted, scored, tuple(f"state {i}" for i in range(fitted.targets.shape[2]))


def _of_tubelets(notes: ClipAnnotations, tubelet: int) -> np.ndarray | None:
    """States of a clip's tubelets, float [tubelets, k]: the mean over the frames of each."""
    if notes.states is None or notes.subject == AMBIGUOUS_SUBJECT:
        return None
    states = notes.states
    if notes.subject is not None:
        states = states[:, notes.subject, [STATE_COLUMNS.index(name) for name in STATE_NAMES]]
    by_tubelet = states.reshape(len(states) // tubelet, tubelet, -1).mean(1)
    return by_tubelet if np.isfinite(by_tubelet).all() else None


def _labels(fit: list[HoldoutClip], held: list[HoldoutClip]) -> ProbeData | None:
    """Classes of clips that have a label; None where there are no two of them."""
    sides = [
        [clip for clip in clips if clip.annotations.label is not None] for clips in (fit, held)
    ]
    classes = sorted({str(clip.annotations.label) for clip in sides[0]})
    held_classes = {clip.annotations.label for clip in sides[1]} & set(classes)
    if len(sides[0]) < len(fit) / 2 or len(held_classes) < 2:
        return None
    fitted, scored = (
        ProbeClips(
            np.stack([clip.pixels for clip in clips]),
            np.array(
                [[clip.annotations.label == name for name in classes] for clip in clips], float
            ),
        )
        for clips in sides
    )
    return fitted, scored, ()


def score_trial(model: WorldModel, gates: CollapseGates, holdout: Holdout) -> dict[str, Any]:
    """Objective, its parts, and what the gates looked at; no objective for what collapsed."""
    untrained = randomly_initialized_model(model.config, 0)
    found = collapse_metrics(
        objectives.encode_batched(model, holdout.videos),
        objectives.encode_batched(untrained, holdout.videos),
    )
    if model.masks and model.clip.grid[0] > 1:
        rolls = objectives.predict_second_half(model, holdout.videos)
        found["skill_over_copy"] = max(one.skill for one in rolls)
    closed = failed_gates(found, gates)
    if closed:
        return {"objective": None, "scores": {}, "gates": found, "shut": closed}
    scores = objective_scores(model, holdout)
    mean = sum(scores.values()) / len(scores)
    return {"objective": mean, "scores": scores, "gates": found, "shut": []}


def objective_scores(model: WorldModel, held: Holdout) -> Scores:
    """The parts of the objective, by name.

    Raises:
        RequestError: the model cannot be asked.
    """
    if held.metric == "quads":
        return objectives.quad_accuracy(model, held.objective.quads)
    if held.metric == "retrieval":
        if not model.masks:
            raise RequestError("a model without a predictor cannot be ranked by retrieval")
        return objectives.prediction_scores(model, held.videos)
    assert held.probe_fit is not None
    assert held.probe_test is not None
    if not held.state_names:
        return objectives.probe_labels(model, held.probe_fit, held.probe_test)
    r2 = objectives.probe_states(model, held.probe_fit, held.probe_test)
    if held.state_names == STATE_NAMES:
        return {name: float(r2[list(some)].mean()) for name, some in STATE_GROUPS.items()}
    return {name: float(one) for name, one in zip(held.state_names, r2, strict=True)}


def collapse_metrics(features: Tensor, randomly_initialized: Tensor) -> dict[str, float]:
    """Signs of collapse in features [B, n, dim], beside an untrained model's of the same videos.

    A model may keep the spread of its features and still put all of it along a few directions:
    how many there could be is what an untrained model says.
    """
    return {
        "feature_std": feature_std(features),
        "rankme": rankme(features),
        "rankme_share": rankme(features) / rankme(randomly_initialized),
        "token_cosine": token_cosine(features),
    }


def failed_gates(metrics: dict[str, float], gates: CollapseGates) -> list[str]:
    """The gates that a model does not pass, in words; a NaN passes none."""
    words = []
    least_of = {"feature_std": gates.feature_std, "rankme_share": gates.rankme_share}
    if gates.skill_over_copy is not None:
        least_of["skill_over_copy"] = gates.skill_over_copy
    for name, least in least_of.items():
        if not metrics.get(name, math.nan) >= least:
            words.append(f"{name} {metrics.get(name, math.nan):.3g} is below {least:g}")
    if not metrics["token_cosine"] <= gates.token_cosine:
        words.append(f"token_cosine {metrics['token_cosine']:.3g} is above {gates.token_cosine:g}")
    return words
