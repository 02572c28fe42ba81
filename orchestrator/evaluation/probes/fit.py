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
from orchestrator.evaluation.measures.ridge import LAMBDAS, RidgeRegression, pool_to_grid
from orchestrator.evaluation.probes.attentive import (
    TokenReader,
    hyperparameter_grid,
    predict_heads,
    train_heads,
)
from orchestrator.evaluation.probes.scores import (
    ProbeScore,
    average_precision,
    r_squared,
    top1_accuracy,
)
from orchestrator.evaluation.probes.split import SPLIT_NAMES, check_disjoint, split_videos
from orchestrator.evaluation.probes.targets import ProbeTargets, load_targets
from orchestrator.features import Features
from orchestrator.job.config.probe import Attentive, ProbeConfig

POOLING_BATCH = 256
"""Clips that are pooled at a time."""

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class SplitRows:
    """Rows of one side of the split."""

    features: Features
    targets: ProbeTargets
    rows: np.ndarray
    """int64, into the targets."""

    @property
    def target_values(self) -> np.ndarray:
        """[rows, targets]."""
        found: np.ndarray = self.targets.values[self.rows]
        return found

    @property
    def video_ids(self) -> np.ndarray:
        """int64 [rows]."""
        found: np.ndarray = self.targets.video_index[self.rows]
        return found


def split_rows(
    probe: ProbeConfig, features: Features, test: Features | None
) -> dict[str, SplitRows]:
    """The rows to learn from, to choose on and to score.

    Raises:
        RequestError: there are no such targets, too few videos, or a video on two sides.
    """
    targets = load_targets(features, probe.target)
    sides = split_videos(targets.videos, targets.strata, probe.split, test=test is None)
    found = {
        name: SplitRows(features, targets, np.flatnonzero(sides[targets.video_index] == number))
        for number, name in enumerate(SPLIT_NAMES)
    }
    if test is not None:
        scored = load_targets(test, probe.target, targets.classes)
        check_disjoint(targets.videos, scored.videos)
        if scored.names != targets.names:
            raise RequestError(
                f"its states are {', '.join(scored.names)}, not {', '.join(targets.names)}",
                where="probe.test_features",
                hint="score on videos whose states mean the same",
            )
        found["test"] = SplitRows(test, scored, np.arange(len(scored.clip_index)))
    return found


def fit_arm(
    probe: ProbeConfig,
    splits: dict[str, SplitRows],
    confidence: float,
    *,
    device: str = "cpu",
    on_step: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Scores of each target, with what was chosen for it and what it was chosen from.

    Raises:
        RequestError: the features are not pooled as the head needs them.
        DataError: a file of the features is damaged.
    """
    if isinstance(probe.head, Attentive):
        settings = [asdict(one) for one in hyperparameter_grid(probe.head)]
        guesses = _attentive(probe.head, splits, device, on_step)
    else:
        settings = [{"penalty": strength} for strength in LAMBDAS]
        guesses = _ridge(splits)
    chosen_on, scored = splits["validation"], splits["test"]
    scores: dict[str, Any] = {}
    for number, name in enumerate(chosen_on.targets.names):
        costs = _validation_costs(guesses["validation"], chosen_on, number)
        best = min(range(len(settings)), key=lambda i: costs[i])
        score = _score_target(guesses["test"][best], scored, number, confidence)
        scores[name] = {
            **asdict(score),
            "chosen": settings[best],
            "cost": [
                {**setting, "validation": cost[0]}
                for setting, cost in zip(settings, costs, strict=True)
            ],
        }
    return {"scores": scores}


def featureless_baseline(sides: dict[str, SplitRows], confidence: float) -> dict[str, Any]:
    """What a rule reaches that sees no features: the most frequent class, or the mean."""
    fitted, scored = sides["train"], sides["test"]
    scores = {}
    for number, name in enumerate(fitted.targets.names):
        if fitted.targets.classes:
            most = np.bincount(fitted.target_values[:, 0]).argmax()
            right = scored.target_values[:, 0] == most
            score = top1_accuracy(right, scored.video_ids, confidence)
        else:
            guess = np.full(
                (len(scored.rows), len(fitted.targets.names)), fitted.target_values.mean(0)
            )
            score = _score_target(guess, scored, number, confidence)
        scores[name] = asdict(score)
    return {"scores": scores}


def _score_target(guess: np.ndarray, side: SplitRows, number: int, confidence: float) -> ProbeScore:
    """One target's score, from outputs [rows, outputs]."""
    if side.targets.classes:
        return top1_accuracy(
            guess.argmax(1) == side.target_values[:, 0], side.video_ids, confidence
        )
    truth = side.target_values[:, number]
    if side.targets.is_binary(number):
        return average_precision(guess[:, number], truth, side.video_ids, confidence)
    return r_squared(guess[:, number], truth, side.video_ids, confidence)


def _validation_costs(
    guesses: np.ndarray, side: SplitRows, number: int
) -> list[tuple[float, float]]:
    """What each setting is chosen by: the share of classes read wrong (and squared error, where
    that is equal); of a state the squared error."""
    if side.targets.classes:
        truth = side.target_values[:, 0]
        wanted = np.eye(len(side.targets.classes))[truth]
        wrong = (guesses.argmax(2) != truth).mean(1)
        apart = ((guesses - wanted) ** 2).mean((1, 2))
        return list(zip(wrong.tolist(), apart.tolist(), strict=True))
    error = ((guesses[:, :, number] - side.target_values[:, number]) ** 2).mean(1)
    return [(one, 0.0) for one in error.tolist()]


def _ridge(sides: dict[str, SplitRows]) -> dict[str, np.ndarray]:
    """Outputs [strengths, rows, outputs] on the sides that were not fitted to."""
    fitted = sides["train"]
    known: dict[str, np.ndarray] = {}
    for side in sides.values():
        if side.features.folder.root not in known:
            known[side.features.folder.root] = _ridge_inputs(side.features, side.targets)
    wanted = fitted.target_values.astype(np.float64)
    if fitted.targets.classes:
        wanted = np.eye(len(fitted.targets.classes))[fitted.target_values[:, 0]]
    ridge = RidgeRegression(known[fitted.features.folder.root][fitted.rows], wanted)
    return {
        name: ridge.predict(known[side.features.folder.root][side.rows])
        for name, side in sides.items()
        if name != "train"
    }


def _ridge_inputs(features: Features, targets: ProbeTargets) -> np.ndarray:
    """One vector a row, float32 [rows, dim]: a clip's mean; of a tubelet its means over a coarse
    grid where there are tokens, so that where things are is not lost."""
    t, _, _ = features.grid
    by_clip: list[np.ndarray] = []
    for part in features.tables(["features"]):
        for chunk in part["features"].chunks:
            array = chunk.to_numpy_ndarray()
            for at in range(0, len(array), POOLING_BATCH):
                some = array[at : at + POOLING_BATCH].astype(np.float32)
                if targets.tubelet_index[0] < 0:
                    by_clip.append(some.reshape(len(some), -1, some.shape[-1]).mean(1))
                elif features.pooling == "tokens":
                    by_clip.append(pool_to_grid(some, features.grid))
                else:
                    by_clip.append(some.reshape(len(some), t, -1))
    whole = np.concatenate(by_clip)
    of_clips = targets.tubelet_index[0] < 0
    found: np.ndarray
    found = (
        whole[targets.clip_index] if of_clips else whole[targets.clip_index, targets.tubelet_index]
    )
    return found


def _attentive(
    head: Attentive, sides: dict[str, SplitRows], device: str, heard: ProgressCallback
) -> dict[str, np.ndarray]:
    """Outputs [settings, rows, outputs] on the sides that were not fitted to."""
    fitted = sides["train"]
    targets, features = fitted.targets, fitted.features
    with tempfile.TemporaryDirectory() as folder:
        reads: dict[str, TokenReader] = {}
        for number, side in enumerate(sides.values()):
            where = side.features.folder.root
            if where not in reads:
                reads[where] = _token_reader(side, Path(folder) / f"{number}.npy")
        truth = torch.from_numpy(fitted.target_values)
        center, spread = truth.double().mean(0), truth.double().std(0, unbiased=False) + 1e-8
        binary = torch.tensor([targets.is_binary(i) for i in range(len(targets.names))])
        wanted = truth[:, 0] if targets.classes else _standard(truth, center, spread, binary)
        grid = features.grid if targets.tubelet_index[0] < 0 else (1, *features.grid[1:])
        if features.pooling == "frames":
            grid = (features.grid[0], 1, 1)
        heads = train_heads(
            head,
            hyperparameter_grid(head),
            reads[features.folder.root],
            fitted.rows,
            wanted,
            _class_loss if targets.classes else _state_loss(binary.to(device)),
            dim=features.shape[-1],
            grid=grid,
            outputs=len(targets.classes) or len(targets.names),
            device=device,
            on_step=heard,
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


def _token_reader(side: SplitRows, file: Path) -> TokenReader:
    """Reads rows of one side's features, which are mapped into memory."""
    features, targets = side.features, side.targets
    of_tubelets = targets.tubelet_index[0] >= 0
    if features.pooling == "mean" or (of_tubelets and features.pooling != "tokens"):
        needed = "tokens" if of_tubelets else "tokens or frames"
        raise RequestError(
            f"there is nothing to attend to: these features are pooled as {features.pooling}",
            where=features.folder.root,
            hint=f"embed with pooling: {needed}, or probe with head: {{kind: ridge}}",
        )
    array = features.array(file)
    dim, tubelets = features.shape[-1], features.grid[0]
    if of_tubelets:
        array = array.reshape(len(array) * tubelets, -1, dim)
        number = targets.clip_index * tubelets + targets.tubelet_index
    else:
        array = array.reshape(len(array), -1, dim)
        number = targets.clip_index

    def read(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(array[number[rows]].astype(np.float32))

    return read


def split_counts(sides: dict[str, SplitRows]) -> dict[str, Any]:
    """Rows and videos of each side."""
    return {
        name: {"rows": len(side.rows), "videos": len(np.unique(side.video_ids))}
        for name, side in sides.items()
    }
