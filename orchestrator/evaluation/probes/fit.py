"""One arm of a probe: fit on some videos, choose on others, score on the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.ridge import LAMBDAS, Ridge, grid_pooled
from orchestrator.evaluation.probes.attentive import (
    Read,
    predict_heads,
    settings_of,
    train_heads,
)
from orchestrator.evaluation.probes.scores import Score, average_precision, r_squared, top1
from orchestrator.evaluation.probes.split import SIDES, refuse_shared, split_videos
from orchestrator.evaluation.probes.targets import Targets, targets_of
from orchestrator.features import Features
from orchestrator.job.config.probe import Attentive, Probe

CHUNK = 256
"""Clips that are pooled at a time."""

Heard = Callable[[int, int], None]


@dataclass(frozen=True)
class Side:
    """Rows of one side of the split."""

    features: Features
    targets: Targets
    rows: np.ndarray
    """int64, into the targets."""

    @property
    def truth(self) -> np.ndarray:
        """[rows, targets]."""
        found: np.ndarray = self.targets.values[self.rows]
        return found

    @property
    def video(self) -> np.ndarray:
        """int64 [rows]."""
        found: np.ndarray = self.targets.video[self.rows]
        return found


def sides_of(probe: Probe, features: Features, test: Features | None) -> dict[str, Side]:
    """The rows to learn from, to choose on and to score.

    Raises:
        RequestError: there are no such targets, too few videos, or a video on two sides.
    """
    targets = targets_of(features, probe.target)
    sides = split_videos(targets.videos, targets.strata, probe.split, test=test is None)
    found = {
        name: Side(features, targets, np.flatnonzero(sides[targets.video] == number))
        for number, name in enumerate(SIDES)
    }
    if test is not None:
        scored = targets_of(test, probe.target, targets.classes)
        refuse_shared(targets.videos, scored.videos)
        if scored.names != targets.names:
            raise RequestError(
                f"its states are {', '.join(scored.names)}, not {', '.join(targets.names)}",
                where="probe.test",
                mend="score on videos whose states mean the same",
            )
        found["test"] = Side(test, scored, np.arange(len(scored.clip)))
    return found


def fit_arm(
    probe: Probe,
    sides: dict[str, Side],
    confidence: float,
    *,
    device: str = "cpu",
    heard: Heard = lambda done, total: None,
) -> dict[str, Any]:
    """Scores of each target, with what was chosen for it and what it was chosen from.

    Raises:
        RequestError: the features are not pooled as the head needs them.
        DataError: a file of the features is damaged.
    """
    if isinstance(probe.head, Attentive):
        settings = [asdict(one) for one in settings_of(probe.head)]
        guesses = _attentive(probe.head, sides, device, heard)
    else:
        settings = [{"penalty": strength} for strength in LAMBDAS]
        guesses = _ridge(sides)
    chosen_on, scored = sides["validation"], sides["test"]
    scores: dict[str, Any] = {}
    for number, name in enumerate(chosen_on.targets.names):
        costs = _costs(guesses["validation"], chosen_on, number)
        best = min(range(len(settings)), key=lambda i: costs[i])
        score = _scored(guesses["test"][best], scored, number, confidence)
        scores[name] = {
            **asdict(score),
            "chosen": settings[best],
            "cost": [
                {**setting, "validation": cost[0]}
                for setting, cost in zip(settings, costs, strict=True)
            ],
        }
    return {"scores": scores}


def baseline(sides: dict[str, Side], confidence: float) -> dict[str, Any]:
    """What a rule reaches that sees no features: the most frequent class, or the mean."""
    fitted, scored = sides["train"], sides["test"]
    scores = {}
    for number, name in enumerate(fitted.targets.names):
        if fitted.targets.classes:
            most = np.bincount(fitted.truth[:, 0]).argmax()
            right = scored.truth[:, 0] == most
            score = top1(right, scored.video, confidence)
        else:
            guess = np.full((len(scored.rows), len(fitted.targets.names)), fitted.truth.mean(0))
            score = _scored(guess, scored, number, confidence)
        scores[name] = asdict(score)
    return {"scores": scores}


def _scored(guess: np.ndarray, side: Side, number: int, confidence: float) -> Score:
    """One target's score, from outputs [rows, outputs]."""
    if side.targets.classes:
        return top1(guess.argmax(1) == side.truth[:, 0], side.video, confidence)
    truth = side.truth[:, number]
    if side.targets.binary(number):
        return average_precision(guess[:, number], truth, side.video, confidence)
    return r_squared(guess[:, number], truth, side.video, confidence)


def _costs(guesses: np.ndarray, side: Side, number: int) -> list[tuple[float, float]]:
    """What each setting is chosen by: the share of classes read wrong (and squared error, where
    that is equal); of a state the squared error."""
    if side.targets.classes:
        truth = side.truth[:, 0]
        wanted = np.eye(len(side.targets.classes))[truth]
        wrong = (guesses.argmax(2) != truth).mean(1)
        apart = ((guesses - wanted) ** 2).mean((1, 2))
        return list(zip(wrong.tolist(), apart.tolist(), strict=True))
    error = ((guesses[:, :, number] - side.truth[:, number]) ** 2).mean(1)
    return [(one, 0.0) for one in error.tolist()]


def _ridge(sides: dict[str, Side]) -> dict[str, np.ndarray]:
    """Outputs [strengths, rows, outputs] on the sides that were not fitted to."""
    fitted = sides["train"]
    known: dict[str, np.ndarray] = {}
    for side in sides.values():
        if side.features.folder.root not in known:
            known[side.features.folder.root] = _flat(side.features, side.targets)
    wanted = fitted.truth.astype(np.float64)
    if fitted.targets.classes:
        wanted = np.eye(len(fitted.targets.classes))[fitted.truth[:, 0]]
    ridge = Ridge(known[fitted.features.folder.root][fitted.rows], wanted)
    return {
        name: ridge.predict(known[side.features.folder.root][side.rows])
        for name, side in sides.items()
        if name != "train"
    }


def _flat(features: Features, targets: Targets) -> np.ndarray:
    """One vector a row, float32 [rows, dim]: a clip's mean; of a tubelet its means over a coarse
    grid where there are tokens, so that where things are is not lost."""
    t, _, _ = features.grid
    by_clip: list[np.ndarray] = []
    for part in features.parts(["features"]):
        for chunk in part["features"].chunks:
            array = chunk.to_numpy_ndarray()
            for at in range(0, len(array), CHUNK):
                some = array[at : at + CHUNK].astype(np.float32)
                if targets.tubelet[0] < 0:
                    by_clip.append(some.reshape(len(some), -1, some.shape[-1]).mean(1))
                elif features.pooling == "tokens":
                    by_clip.append(grid_pooled(some, features.grid))
                else:
                    by_clip.append(some.reshape(len(some), t, -1))
    whole = np.concatenate(by_clip)
    of_clips = targets.tubelet[0] < 0
    found: np.ndarray
    found = whole[targets.clip] if of_clips else whole[targets.clip, targets.tubelet]
    return found


def _attentive(
    head: Attentive, sides: dict[str, Side], device: str, heard: Heard
) -> dict[str, np.ndarray]:
    """Outputs [settings, rows, outputs] on the sides that were not fitted to."""
    fitted = sides["train"]
    targets, features = fitted.targets, fitted.features
    with tempfile.TemporaryDirectory() as folder:
        reads: dict[str, Read] = {}
        for number, side in enumerate(sides.values()):
            where = side.features.folder.root
            if where not in reads:
                reads[where] = _tokens(side, Path(folder) / f"{number}.npy")
        truth = torch.from_numpy(fitted.truth)
        center, spread = truth.double().mean(0), truth.double().std(0, unbiased=False) + 1e-8
        binary = torch.tensor([targets.binary(i) for i in range(len(targets.names))])
        wanted = truth[:, 0] if targets.classes else _standard(truth, center, spread, binary)
        grid = features.grid if targets.tubelet[0] < 0 else (1, *features.grid[1:])
        if features.pooling == "frames":
            grid = (features.grid[0], 1, 1)
        heads = train_heads(
            head,
            settings_of(head),
            reads[features.folder.root],
            fitted.rows,
            wanted,
            _class_loss if targets.classes else _state_loss(binary.to(device)),
            dim=features.shape[-1],
            grid=grid,
            outputs=len(targets.classes) or len(targets.names),
            device=device,
            heard=heard,
        )
        found = {}
        for name, side in sides.items():
            if name == "train":
                continue
            read = reads[side.features.folder.root]
            outputs = predict_heads(heads, read, side.rows, head.batch)
            if targets.classes:
                found[name] = outputs.softmax(-1).numpy()
            else:
                plain = outputs.double() * spread + center
                found[name] = torch.where(binary, outputs.double().sigmoid(), plain).numpy()
        return found


def _standard(truth: Tensor, center: Tensor, spread: Tensor, binary: Tensor) -> Tensor:
    return torch.where(binary, truth, (truth - center) / spread).float()


def _class_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    k, b, _ = outputs.shape
    each = F.cross_entropy(outputs.flatten(0, 1), targets.repeat(k), reduction="none")
    return each.view(k, b).mean(1)


def _state_loss(binary: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.expand_as(outputs)
        yes = F.binary_cross_entropy_with_logits(outputs, wanted.clamp(0, 1), reduction="none")
        return torch.where(binary, yes, (outputs - wanted) ** 2).mean((1, 2))

    return loss


def _tokens(side: Side, file: Path) -> Read:
    """Reads rows of one side's features, which are mapped into memory."""
    features, targets = side.features, side.targets
    of_tubelets = targets.tubelet[0] >= 0
    if features.pooling == "mean" or (of_tubelets and features.pooling != "tokens"):
        needed = "tokens" if of_tubelets else "tokens or frames"
        raise RequestError(
            f"there is nothing to attend to: these features are pooled as {features.pooling}",
            where=features.folder.root,
            mend=f"embed with pooling: {needed}, or probe with head: {{kind: ridge}}",
        )
    array = features.array(file)
    dim, tubelets = features.shape[-1], features.grid[0]
    if of_tubelets:
        array = array.reshape(len(array) * tubelets, -1, dim)
        number = targets.clip * tubelets + targets.tubelet
    else:
        array = array.reshape(len(array), -1, dim)
        number = targets.clip

    def read(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(array[number[rows]].astype(np.float32))

    return read


def counts(sides: dict[str, Side]) -> dict[str, Any]:
    """Rows and videos of each side."""
    return {
        name: {"rows": len(side.rows), "videos": len(np.unique(side.video))}
        for name, side in sides.items()
    }
