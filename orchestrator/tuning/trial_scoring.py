"""What a trial is worth: an objective on videos that no trial was trained on, behind gates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.features.clip_annotations import SEVERAL, Notes
from orchestrator.jepa.model_files import WorldModel, random_model
from orchestrator.job import Data, Model, TrainJob, TuneJob
from orchestrator.job.config.trial_objective import PREDICTED, PREDICTIVE, Gates, TrialObjective
from orchestrator.physics.simulated_video import COLUMNS
from orchestrator.physics.uri import parse
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.study.state_probe import shown
from orchestrator.training.health import feature_std, rankme, token_cosine
from orchestrator.tuning import trial_metrics as objectives
from orchestrator.tuning.holdout import Clip, held_clips, hold_out
from orchestrator.tuning.trial_metrics import Labelled, Scores

STATES = ("x", "y", "vx", "vy")
GROUPS = {"position": (0, 1), "velocity": (2, 3)}
"""States of simulated scenes, and what is made of them."""


@dataclass(frozen=True)
class HeldOut:
    """What trials are judged on."""

    objective: TrialObjective
    metric: str
    """What they are ranked by: never `auto`."""

    videos: np.ndarray
    """What is scored, and what the gates look at: uint8 [clips, T, size, size, 3]."""

    fit: Labelled | None = None
    """Of `probe`: what it is fitted to."""

    held: Labelled | None = None
    """Of `probe`: what it is scored on."""

    names: tuple[str, ...] = ()
    """Of `probe`: the states, or nothing where classes are read."""


@dataclass(frozen=True)
class _Asked:
    """What decides the simulated videos of a trial."""

    data: Data
    model: Model
    probe: TrialObjective


def prepare_objective(
    job: TuneJob, folder: Storage, progress: Progress, *, local: bool = False
) -> None:
    """Hold videos out, and make sure that the job's objective can be had of them.

    Raises:
        RequestError: it cannot; no trial was started.
        JobFailed: packing stopped; what is committed stays.
    """
    if job.objective.simulated(job.train):
        return
    hold_out(job, folder, progress, local=local)
    metric, train = held_out(job, job.train).metric, job.train
    if metric == "retrieval" and train.data.frames == train.model.tubelet:
        raise RequestError(
            "a clip of one moment has no future to retrieve",
            where="train.data.frames",
            mend=f"write {2 * train.model.tubelet} or more, or name labelled videos",
        )
    alone = train.objective.kind in PREDICTIVE and train.data.act is None
    if metric in PREDICTED and not alone:
        raise RequestError(
            f"the held-out videos carry neither states nor labels, and a model of"
            f" '{train.objective.kind}' has no predictor to retrieve with, or one that must be"
            " told what is done",
            where="objective.metric",
            mend="name labelled videos as objective.source",
        )


def held_out(job: TuneJob, train: TrainJob, *, fresh: bool = False) -> HeldOut:
    """What a trial of `train` is judged on, as its model sees video.

    Args:
        fresh: videos that no trial is scored on: for a winner, who was chosen by its score.

    Raises:
        RequestError: the held-out videos do not carry what is to be read.
    """
    asked = job.objective
    if asked.simulated(train):
        later = asked.model_copy(update={"seed": asked.seed + 1})
        return _simulated(later if fresh else asked, train)
    clips = held_clips(job, train)
    score = min(asked.score, len(clips) // 3)
    scored, unseen, rest = clips[:score], clips[score : 2 * score], clips[2 * score :]
    scored = unseen if fresh else scored
    videos = np.stack([clip.pixels for clip in scored])
    known = None
    if asked.metric in ("auto", "probe"):
        seen = {clip.video for clip in scored}  # no segment of a scored video is fitted to
        fit = [clip for clip in rest if clip.video not in seen]
        known = _states(fit, scored, train.model.tubelet) or _labels(fit, scored)
    if known is not None:
        return HeldOut(asked, "probe", videos, *known)
    if asked.metric == "probe":
        raise RequestError(
            "the held-out videos carry neither states nor two kinds of labels",
            where="objective.metric",
            mend="write retrieval, which needs none, or name other videos as objective.source",
        )
    return HeldOut(asked, "quads" if asked.metric == "quads" else "retrieval", videos)


def _simulated(asked: TrialObjective, train: TrainJob) -> HeldOut:
    source = asked.source or train.data.source or ""
    data = train.data.model_copy(update={"source": source})
    fit, held = shown(_Asked(data, train.model, asked), parse(source).background)
    if asked.metric not in ("auto", "probe"):
        return HeldOut(asked, asked.metric, held.videos)
    fitted, scored = (Labelled(some.videos, some.states) for some in (fit, held))
    return HeldOut(asked, "probe", held.videos, fitted, scored, STATES)


Known = tuple[Labelled, Labelled, tuple[str, ...]]
"""What a probe is fitted to, what it is scored on, and the names of the states."""


def _states(fit: list[Clip], held: list[Clip], tubelet: int) -> Known | None:
    """The states of clips that have them; None where they are too few, or of several kinds."""
    sides, names = [], set()
    for clips in (fit, held):
        found = [(clip, _of_tubelets(clip.notes, tubelet)) for clip in clips]
        some = [(clip.pixels, states) for clip, states in found if states is not None]
        if len(some) < len(clips) / 2 or not some:
            return None
        names |= {states.shape[1] for _, states in some}
        if len(names) > 1:
            return None
        sides.append(Labelled(*(np.stack(part) for part in zip(*some, strict=True))))
    fitted, scored = sides
    if all(clip.notes.subject is not None for clip in held):
        return fitted, scored, STATES
    return fitted, scored, tuple(f"state {i}" for i in range(fitted.targets.shape[2]))


def _of_tubelets(notes: Notes, tubelet: int) -> np.ndarray | None:
    """States of a clip's tubelets, float [tubelets, k]: the mean over the frames of each."""
    if notes.states is None or notes.subject == SEVERAL:
        return None
    states = notes.states
    if notes.subject is not None:
        states = states[:, notes.subject, [COLUMNS.index(name) for name in STATES]]
    by_tubelet = states.reshape(len(states) // tubelet, tubelet, -1).mean(1)
    return by_tubelet if np.isfinite(by_tubelet).all() else None


def _labels(fit: list[Clip], held: list[Clip]) -> Known | None:
    """Classes of clips that have a label; None where there are no two of them."""
    sides = [[clip for clip in clips if clip.notes.label is not None] for clips in (fit, held)]
    classes = sorted({str(clip.notes.label) for clip in sides[0]})
    held_classes = {clip.notes.label for clip in sides[1]} & set(classes)
    if len(sides[0]) < len(fit) / 2 or len(held_classes) < 2:
        return None
    fitted, scored = (
        Labelled(
            np.stack([clip.pixels for clip in clips]),
            np.array([[clip.notes.label == name for name in classes] for clip in clips], float),
        )
        for clips in sides
    )
    return fitted, scored, ()


def score(model: WorldModel, gates: Gates, held: HeldOut) -> dict[str, Any]:
    """Objective, its parts, and what the gates looked at; no objective for what collapsed."""
    untrained = random_model(model.config, 0)
    found = signs(
        objectives.encoded(model, held.videos), objectives.encoded(untrained, held.videos)
    )
    if model.masks and model.clip.grid[0] > 1:
        rolls = objectives.foreseen(model, held.videos)
        found["skill_over_copy"] = max(one.skill for one in rolls)
    closed = shut(found, gates)
    if closed:
        return {"objective": None, "scores": {}, "gates": found, "shut": closed}
    scores = scores_of(model, held)
    mean = sum(scores.values()) / len(scores)
    return {"objective": mean, "scores": scores, "gates": found, "shut": []}


def scores_of(model: WorldModel, held: HeldOut) -> Scores:
    """The parts of the objective, by name.

    Raises:
        RequestError: the model cannot be asked.
    """
    if held.metric == "quads":
        return objectives.read_quads(model, held.objective.quads)
    if held.metric == "retrieval":
        if not model.masks:
            raise RequestError("a model without a predictor cannot be ranked by retrieval")
        return objectives.read_future(model, held.videos)
    assert held.fit is not None
    assert held.held is not None
    if not held.names:
        return objectives.read_labels(model, held.fit, held.held)
    r2 = objectives.read_states(model, held.fit, held.held)
    if held.names == STATES:
        return {name: float(r2[list(some)].mean()) for name, some in GROUPS.items()}
    return {name: float(one) for name, one in zip(held.names, r2, strict=True)}


def signs(features: Tensor, untrained: Tensor) -> dict[str, float]:
    """Signs of collapse in features [B, n, dim], beside an untrained model's of the same videos.

    A model may keep the spread of its features and still put all of it along a few directions:
    how many there could be is what an untrained model says.
    """
    return {
        "feature_std": feature_std(features),
        "rankme": rankme(features),
        "rankme_share": rankme(features) / rankme(untrained),
        "token_cosine": token_cosine(features),
    }


def shut(found: dict[str, float], gates: Gates) -> list[str]:
    """The gates that a model does not pass, in words; a NaN passes none."""
    words = []
    least_of = {"feature_std": gates.feature_std, "rankme_share": gates.rankme_share}
    if gates.skill_over_copy is not None:
        least_of["skill_over_copy"] = gates.skill_over_copy
    for name, least in least_of.items():
        if not found.get(name, math.nan) >= least:
            words.append(f"{name} {found.get(name, math.nan):.3g} is below {least:g}")
    if not found["token_cosine"] <= gates.token_cosine:
        words.append(f"token_cosine {found['token_cosine']:.3g} is above {gates.token_cosine:g}")
    return words
