"""The `study` job: how much video does each objective need to see as much of the world?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from orchestrator.job.config.base import NAME_PATTERN, Name, Section, field_error
from orchestrator.job.config.data import Data
from orchestrator.job.config.evaluate import EvaluateTrack
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.model import Model
from orchestrator.job.config.objective import AnyObjective
from orchestrator.job.config.scale import Scale
from orchestrator.job.config.train import Checkpoint, Optim, TrainJob

Background = Literal["still", "moving"]


class StudyProbe(Section):
    """What frozen features are asked: where things are and how fast, by ridge regression."""

    fit_videos: Annotated[PositiveInt, FormerName("fit")] = Field(96, ge=10)
    """Videos that a probe is fitted to: the same for every cell, and no part of N."""

    scored_videos: Annotated[PositiveInt, FormerName("score")] = Field(96, ge=2)
    """Videos that it is scored on."""

    seed: NonNegativeInt = 1_000_003
    """Seed of these videos; another than the training source's."""


@dataclass(frozen=True)
class StudyCell:
    """One model of the study, to be trained (where it has a job) and probed."""

    key: str
    """Unique in the study; safe as a file's name."""

    arm: str
    background: Background
    seed: int
    clips: int | None
    """Videos that it is trained on; None: nothing is trained."""

    job: TrainJob | None


class StudyJob(Section):
    """Train the same encoder by several objectives on ever more video, and probe what it knows.

    A cell is an objective (arm), a number of videos, a background and a seed; its training is a
    run of its own, and a finished cell is never run again. The videos of every cell are the
    first N of one order.
    """

    kind: Literal["study"]
    """The job's kind."""

    name: Name
    """An identity: the same name continues the same study; more cells may be added to it."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves."""

    arms: dict[str, AnyObjective | None] = Field(min_length=2)
    """Objectives by name; null: nothing is trained, a random encoder is probed."""

    reference: str = "pixels"
    """The arm whose need for video is divided by that of each other trained arm."""

    num_videos: Annotated[tuple[PositiveInt, ...], FormerName("clips")] = Field(min_length=2)
    """Numbers of training videos, rising."""

    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1)
    """Seeds of initial weights, order, augmentation and masks."""

    backgrounds: tuple[Background, ...] = Field(("still", "moving"), min_length=1)
    """Behind the scenes, in training and in the probe's videos alike."""

    data: Data
    """What every cell is trained on. The source is `physics://`; the study sets its `clips` and
    `background`."""

    model: Model = Model()
    """The encoder of every arm, and the predictor of those that have one."""

    optim: Optim
    """The same steps for every arm and every number of videos."""

    scale: Scale = Scale()
    """How a step is spread over workers."""

    checkpoint: Checkpoint = Checkpoint(keep_last=1)
    """What is saved of each training."""

    probe: StudyProbe = StudyProbe()
    """What frozen features are asked."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of every interval (bootstrap over seeds)."""

    track: EvaluateTrack = EvaluateTrack()
    """Where study and trainings are remembered."""

    @model_validator(mode="after")
    def _composed(self) -> StudyJob:
        if list(self.num_videos) != sorted(set(self.num_videos)):
            raise field_error("clips", f"{list(self.num_videos)} do not rise")
        if len(set(self.seeds)) < len(self.seeds):
            raise field_error("seeds", "a seed is named twice")
        if self.reference not in self.arms or self.arms[self.reference] is None:
            raise field_error("reference", f"'{self.reference}' is no trained arm")
        source = self.data.source or ""
        if not source.startswith("physics://"):
            raise field_error(
                "data.source", "a study needs physics://: only there the states are known"
            )
        for option in ("clips", "background"):
            if f"{option}=" in source.partition("?")[2]:
                raise field_error("data.source", f"'{option}' is set by the study; leave it out")
        for cell in self.cells():
            if not _is_name(cell.key):
                raise field_error(
                    "arms", f"'{cell.arm}' makes the name '{cell.key}', which cannot be"
                )
        return self

    def cells(self) -> Iterator[StudyCell]:
        """Every model, in the order in which they are trained: whole seeds first.

        A study that is stopped has thus whole curves of fewer seeds.
        """
        for seed in self.seeds:
            for background in self.backgrounds:
                for arm, objective in self.arms.items():
                    key = f"{self.name}.{background}.{arm}"
                    if objective is None:
                        yield StudyCell(f"{key}.s{seed}", arm, background, seed, None, None)
                        continue
                    for clips in self.num_videos:
                        name = f"{key}.n{clips}.s{seed}"
                        job = self._train_job(name, arm, objective, background, clips, seed)
                        yield StudyCell(name, arm, background, seed, clips, job)

    def source_uri(self, background: Background, clips: int | None) -> str:
        """The URI of a cell's videos."""
        source = self.data.source or ""
        options = [f"background={background}"] if background != "still" else []
        options += [f"clips={clips}"] if clips is not None else []
        joint = "&" if "?" in source else "?"
        return source + (joint + "&".join(options) if options else "")

    def _train_job(
        self,
        name: str,
        arm: str,
        objective: Any,
        background: Background,
        clips: int,
        seed: int,
    ) -> TrainJob:
        data = self.data.model_copy(update={"source": self.source_uri(background, clips)})
        try:
            return TrainJob(
                kind="train",
                name=name,
                storage=self.storage,
                seed=seed,
                data=data,
                model=self.model,
                objective=objective,
                optim=self.optim,
                scale=self.scale,
                checkpoint=self.checkpoint,
                track={
                    "uri": self.track.uri,
                    "experiment": self.track.experiment,
                    "pictures": 0,
                },
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = first.get("ctx", {}).get("key") or ".".join(map(str, first["loc"]))
            place = place.replace("objective", f"arms.{arm}", 1)
            raise field_error(place, str(first["msg"])) from None


def _is_name(text: str) -> bool:
    return re.fullmatch(NAME_PATTERN, text) is not None
