"""What a trial of a sweep is worth: the objective that ranks trials, and the gates before it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from orchestrator.job.config.base import Section, field_error
from orchestrator.job.config.evaluate import Suite
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.objective_base import ObjectiveConfig
from orchestrator.job.config.train import TrainJob

METRICS = ("auto", "probe", "retrieval", "quads")
"""What trials can be ranked by."""

PREDICTOR_METRICS = ("retrieval", "quads")
"""Metrics that need a predictor."""

SIMULATOR_SCHEME = "physics://"


class TrialObjective(Section):
    """How a trained model is scored, on videos that no trial was trained on.

    Of `physics://` those are other videos of the same kind, drawn by `seed`; of any other source
    a share of its videos, that is left out of every training, or those of `source`.
    """

    metric: str = "auto"
    """`probe`: R2 of what a ridge regression reads off the frozen features: states of each
    tubelet, or the label of a clip. `retrieval`: needs no labels; how near the
    predicted future lies to what came among all moments of all clips, together with how much
    better it is than a copy of the last moment seen. `quads`: the
    share of the physics suite's quadruplets that are right. `auto`: `probe` where the videos
    carry states or labels, else `retrieval`. A `loss` is refused, with the reason."""

    fit_videos: Annotated[PositiveInt, FormerName("fit")] = Field(400, ge=10)
    """Clips that a probe is fitted to: the same for every trial."""

    scored_videos: Annotated[PositiveInt, FormerName("score")] = Field(96, ge=2)
    """Clips that are scored; the gates look at these too."""

    seed: NonNegativeInt = 1_000_003
    """Seed of these videos, or of the split; another than the training source's."""

    source: str | None = None
    """Where these videos come from instead: any source that `data.source` can name. None of them
    may be trained on."""

    holdout_fraction: Annotated[float, FormerName("share")] = Field(0.1, gt=0, lt=1)
    """Share of the training source's videos that is held out, where that is no `physics://` and
    no `source` is given."""

    quads: PositiveInt = 8
    """Quadruplets of each scenario that `quads` shows; how to look is chosen on others."""

    def is_simulated(self, train: TrainJob) -> bool:
        """Whether the held-out videos are drawn by a simulator."""
        return (self.source or train.data.source or "").startswith(SIMULATOR_SCHEME)

    def splits_training_source(self, train: TrainJob) -> bool:
        """Whether a share of the training source is held out."""
        return self.source is None and not self.is_simulated(train)

    def check(self, train: TrainJob) -> None:
        """Refuse what can be refused without looking at data.

        Raises:
            PydanticCustomError: trials cannot be ranked by this.
        """
        if self.metric == "loss":
            ema = train.objective_config.teacher_type == "ema"
            why = (
                "the loss of an EMA objective is lowest for a model that collapsed"
                if ema
                else "losses of different objectives and masks cannot be compared"
            )
            raise field_error("objective.metric", f"'loss' is refused: {why}; write auto")
        if self.metric not in METRICS:
            raise field_error(
                "objective.metric", f"unknown '{self.metric}'; write {' or '.join(METRICS)}"
            )
        self.check_predictor(train.objective_config, train.objective.kind, "train.objective")
        if self.metric in PREDICTOR_METRICS and train.data.actions is not None:
            text = f"'{self.metric}' does not say what is done, and the model acts"
            raise field_error("objective.metric", f"{text}; rank by probe")
        if self.metric == "quads" and train.data.frames > Suite().frames:
            text = f"'quads' shows videos of {Suite().frames} frames, shorter than a clip"
            raise field_error(
                "objective.metric", f"{text} of {train.data.frames}; rank by retrieval"
            )

    def check_predictor(
        self, config: ObjectiveConfig | type[ObjectiveConfig], kind: str, where: str
    ) -> None:
        """Refuse a train job's objective whose model could not be asked.

        Raises:
            PydanticCustomError: the metric needs a predictor, and it keeps none.
        """
        if self.metric in PREDICTOR_METRICS and not config.predicts_without_actions():
            text = f"'{self.metric}' needs a predictor, and a model of '{kind}' keeps none"
            raise field_error(where, f"{text}; rank by probe")


class CollapseGates(Section):
    """What features of held-out videos must be for a trial to go on and to win."""

    feature_std: NonNegativeFloat = 0.05
    """Least deviation over tokens, mean over channels; a collapsed model has 0."""

    rankme_share: NonNegativeFloat = 0.2
    """Least effective rank (RankMe), as a share of that of an untrained model of the same shape."""

    token_cosine: float = Field(0.99, gt=-1, le=1)
    """Largest mean cosine between tokens; a collapsed model has 1."""

    skill_over_copy: float | None = Field(None, lt=1)
    """Least skill of predicted futures over repeating the last moment seen: 1 - error / its error.
    Default: it is measured and shut for nobody, since where most of a picture stands still copying
    is nearly exact, and healthy models stay far below 0."""
