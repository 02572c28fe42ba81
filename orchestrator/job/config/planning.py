"""The `planning` section of an `evaluate` job: can a model be acted with?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.job.config.base import CustomComponent, Section, component_tag, field_error
from orchestrator.job.config.former_names import FormerName


class _Sampling(Section):
    """What solvers that draw candidates have in common."""

    candidates: PositiveInt = 300
    """Plans that are tried in an iteration."""

    iterations: PositiveInt = 10
    """Times that candidates are drawn."""

    init_std: Annotated[PositiveFloat, FormerName("spread")] = 1.0
    """Standard deviation of the first candidates, in halves of the bounds' width."""

    noise_correlation: Annotated[float, FormerName("smooth")] = Field(0.7, ge=0, lt=1)
    """Correlation of the noise of neighbouring control steps, for half of the candidates: the other
    half has none, and trembles on the spot. 0: none has any."""


class CEM(_Sampling):
    """Cross-entropy method: draw around a mean, go on from the best; the best plan seen counts."""

    kind: Literal["cem"] = "cem"
    """Cross-entropy method: draw around a mean, go on from the best."""

    elites: PositiveInt = 30
    """Best candidates that the next mean and spread are taken of."""

    reused_elites: Annotated[NonNegativeInt, FormerName("carried")] = 10
    """Elites that are candidates again in the next iteration (iCEM, arXiv 2008.06389)."""

    @model_validator(mode="after")
    def _elites_are_candidates(self) -> CEM:
        if self.elites > self.candidates:
            raise ValueError(f"{self.elites} elites of {self.candidates} candidates")
        if self.reused_elites > self.elites:
            raise ValueError(f"{self.reused_elites} carried of {self.elites} elites")
        if self.reused_elites + 2 > self.candidates:
            raise ValueError(
                f"{self.reused_elites} carried of {self.candidates} candidates: none is new"
            )
        return self


class MPPI(_Sampling):
    """Model predictive path integral: the mean of all candidates, weighted by exp(-cost)."""

    kind: Literal["mppi"]
    """Model predictive path integral: the mean of all candidates, weighted by exp(-cost)."""

    temperature: PositiveFloat = 0.1
    """Of the weights, in standard deviations of the candidates' costs."""


AnySolver = Annotated[
    Annotated[CEM, Tag("cem")]
    | Annotated[MPPI, Tag("mppi")]
    | Annotated[CustomComponent, Tag("custom")],
    Discriminator(lambda v: component_tag(v, "cem")),
]

BaselineName = Literal["random", "cloning", "nearest", "oracle"]


class PlanningTask(Section):
    """Where a task begins and where it is to end: states of the world."""

    start: tuple[float, ...] = Field(min_length=1)
    """The world's state at the beginning."""

    goal: tuple[float, ...] = Field(min_length=1)
    """The state to be reached."""


class Planning(Section):
    """Reach goals in a world by planning with the model, beside what needs no model."""

    environment: Annotated[str, FormerName("world")] = Field(min_length=1)
    """Name of a world (two-rooms, push-t, ...), gym/ID or package.module:Name."""

    seed: NonNegativeInt = 1_000_000
    """Of the tasks. Training episodes have other seeds; what is held out must stay so."""

    episodes: PositiveInt = 100
    """Tasks that are played: a start and a goal, from the world's own collector."""

    tasks: tuple[PlanningTask, ...] = ()
    """Tasks of your own in place of drawn ones."""

    goal_offset: Annotated[PositiveInt, FormerName("ahead")] = 25
    """Control steps from start to goal in the collector's episode."""

    budget: PositiveInt = 50
    """Control steps in which the goal must be reached, at any of them."""

    goal: Literal["image", "state"] = "image"
    """What the planner is shown: the picture of the goal, or its state. A model that predicts
    features reads states off them by a linear map, fitted on the data of `data`."""

    goal_space: Annotated[Literal["features", "states"], FormerName("compare")] = "features"
    """What is compared with a goal that is a picture: features, or what a linear map, fitted on
    `data`, reads off them of the states (as much as a success depends on: `World.judged`). Of a
    goal that is a state: the latter."""

    horizon: PositiveInt = 5
    """Model steps that are planned."""

    receding_horizon: Annotated[PositiveInt, FormerName("execute")] = 1
    """Model steps of a plan that are done before it is made anew."""

    context_timesteps: Annotated[PositiveInt | None, FormerName("history")] = None
    """Moments that the model is told of at a time. Default: so many that the whole plan fits into
    what it reads at once, but at least two, which show what moves."""

    cost: Literal["last", "every"] = "last"
    """Which predicted moments are to be near the goal: the last, or all in the mean."""

    distance: Literal["l1", "l2"] = "l2"
    """Mean absolute or mean squared difference of features."""

    solver: AnySolver = CEM()
    """Who searches."""

    baselines: Annotated[tuple[BaselineName, ...], FormerName("arms")] = (
        "random",
        "cloning",
        "nearest",
        "oracle",
    )
    """What is played beside the model, on the same tasks. `random`: actions from the whole action
    space; `cloning`: actions learned from `data`, given features of now and of the goal;
    `nearest`: the actions that led from there to there in `data`; `oracle`: the same planner with
    the world itself in place of the model, goals given as states."""

    oracle_episodes: PositiveInt | None = None
    """Tasks that the oracle plays, the first ones; a slow world makes it slow. Default: all."""

    data: str | None = None
    """What cloning and the nearest trajectory know: a source or a packed dataset. Default: what the
    model was trained on."""

    data_episodes: PositiveInt = 400
    """Videos of it that are used."""

    size: PositiveInt | None = None
    """Pixels of the world's picture. Default: the model's."""

    @property
    def needs_state_readout(self) -> bool:
        """Whether states are read off features."""
        return self.goal == "state" or self.goal_space == "states"

    @model_validator(mode="after")
    def _fits(self) -> Planning:
        if self.receding_horizon > self.horizon:
            raise field_error(
                "planning.receding_horizon",
                f"{self.receding_horizon} steps of a plan of {self.horizon}",
            )
        if len(set(self.baselines)) < len(self.baselines):
            raise field_error("planning.baselines", "an arm is named twice")
        return self
