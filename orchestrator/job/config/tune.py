"""The `tune` job: which values of a train job's keys give the best world model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.job.config.base import Name, Section, field_error
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.objective import objective_config_class
from orchestrator.job.config.scale import ElasticWorkers
from orchestrator.job.config.train import TrainJob
from orchestrator.job.config.trial_objective import (
    CollapseGates,
    TrialObjective,
)

RESERVED_KEYS = {
    "kind": "every trial is a training",
    "name": "the sweep names its trials",
    "storage": "the sweep's own storage holds its trials",
    "optim.steps": "that is the sweep's budget",
    "track": "it decides nothing that is learned",
    "checkpoint": "it decides nothing that is learned",
    "evaluate": "trials are judged by the sweep's objective",
}
"""Keys of the train job that no space may name, and why."""

PACKING_KEYS = ("data.source", "data.encode")
"""Keys that decide how videos are packed."""

SEARCHABLE_SCALE_KEY = "scale.global_batch"
"""The one key of `scale` that changes what is learned."""

ASHA_REDUCTION_FACTOR = 3
"""ASHA: one in so many goes on from each rung."""

PBT_MUTABLE_PREFIXES = ("optim.", "objective.", "data.augment.")
"""Keys that may change under weights that stay (`scheduler: pbt`)."""

MIN_POPULATION = 4
"""Members of the smallest population: a quarter of it is one."""


class Dimension(Section):
    """What one key may be: one of `uniform`, `loguniform`, `int` and `choice`."""

    uniform: tuple[float, float] | None = None
    """A real number between two."""

    loguniform: tuple[float, float] | None = None
    """A real number between two positive ones, every power of ten alike."""

    whole: tuple[int, int] | None = Field(None, alias="int")
    """A whole number from the first to the second."""

    choice: tuple[Any, ...] | None = None
    """One of these values; each may be a whole section, such as an objective with its keys."""

    when: dict[str, Any] = Field({})
    """Only where other keys have these values: `{optim.schedule: cosine}`. What they are is
    decided by the job, or by a key that stands before this one in the space."""

    @model_validator(mode="after")
    def _one_way(self) -> Dimension:
        ways = {"uniform": self.uniform, "loguniform": self.loguniform, "int": self.whole}
        given = [
            name for name, value in {**ways, "choice": self.choice}.items() if value is not None
        ]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"one of uniform, loguniform, int and choice is needed (got {found})")
        for name, span in ways.items():
            if span is not None and not span[0] < span[1]:
                raise ValueError(
                    f"nothing lies between {name} {list(span)}: the first must be lower"
                )
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform {list(self.loguniform)} must be above 0")
        if self.choice is not None and not self.choice:
            raise ValueError("choice is empty")
        if self.choice is not None and any(self.choice.count(one) > 1 for one in self.choice):
            raise ValueError(f"choice names a value twice: {list(self.choice)}")
        return self

    @property
    def extreme_values(self) -> tuple[Any, ...]:
        """The values that must be good ones: both ends, or every choice."""
        return self.choice or self.uniform or self.loguniform or self.whole or ()

    def contains(self, value: Any) -> bool:
        """Whether it may be `value`."""
        if self.choice is not None:
            return value in self.choice
        span = self.whole or self.uniform or self.loguniform
        number = isinstance(value, int if self.whole else int | float)
        return span is not None and number and span[0] <= value <= span[1]


class Budget(Section):
    """How much a sweep may take. At a limit no trial starts any more, what runs is saved and
    stopped, and the sweep ends with what is done; with a higher limit the same sweep goes on."""

    steps: PositiveInt | None = Field(None, ge=2)
    """Optimizer steps of a trial. Default: the train job's `optim.steps`."""

    hours: PositiveFloat | None = None
    """Hours that the sweep may train, its launches added up."""

    gpu_hours: PositiveFloat | None = None
    """Hours of its workers, added up: a worker has a GPU, or its cores where there is none."""


AnyBudget = Annotated[
    Annotated[PositiveInt, Field(ge=2), Tag("steps")] | Annotated[Budget, Tag("limits")],
    Discriminator(lambda v: "limits" if isinstance(v, (dict, Budget)) else "steps"),
]


class TuneJob(Section):
    """Search for the values of a train job's keys that give the best features.

    Every trial is a training with a run of its own. A trial that collapses is stopped and never
    wins; the best one is registered as candidate where the train job names a model.
    """

    kind: Literal["tune"]
    """The job's kind."""

    name: Name
    """An identity: the same name continues the same sweep; `trials` may grow."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves."""

    train: TrainJob
    """A job file of kind `train`, its path from the working directory, or its keys in place. Its
    `name`, `storage`, `optim.steps` and `evaluate` give way to the sweep's; `track.register` names
    the model that the winner becomes a version of."""

    space: dict[str, Dimension] = Field(min_length=1)
    """What is searched, by dotted key of the train job:
    `{optim.lr: {loguniform: [1.0e-4, 1.0e-2]}}`."""

    search: Literal["random", "grid", "tpe"] = "random"
    """`tpe` learns from the trials before (Optuna); `grid` tries all combinations of `int` and
    `choice`."""

    seed: NonNegativeInt = 0
    """Seed of the search. A trial's values follow from it, from its number and, for `tpe`, from
    what is known when it starts."""

    initial_points: Annotated[tuple[dict[str, Any], ...], FormerName("first")] = ()
    """Points to try before all others: `[{optim.lr: 1e-3}]`; keys that are left out are drawn."""

    scheduler: Literal["fifo", "asha", "pbt"] = "fifo"
    """`asha` ends trials early that are behind others after a tenth, and three tenths, of their
    steps; those that go on continue from their checkpoint. `pbt` (population based training): at
    a tenth and at each fifth of the steps the worst quarter of the population is replaced by
    children of the best quarter, which go on from their parents' checkpoints with other values."""

    trials: PositiveInt
    """Trainings in all; with `pbt`, members of the population."""

    budget: AnyBudget
    """Optimizer steps of a trial, or a section that limits the whole sweep too:
    `{steps: 2000, gpu_hours: 64}`."""

    objective: TrialObjective = TrialObjective()
    """What is compared."""

    gates: CollapseGates = CollapseGates()
    """What ends a trial as collapsed; looked at after a tenth of its steps, and whenever it is
    scored."""

    @model_validator(mode="after")
    def _composed(self) -> TuneJob:
        self._check_objective()
        if isinstance(self.train.scale.workers, ElasticWorkers):
            raise field_error(
                "train.scale.workers", "trials share a cluster: write a number of workers"
            )
        if len(self.name) > 90:
            raise field_error("name", f"'{self.name}' leaves no room for the numbers of trials")
        for key in self.space:
            for ours, why in RESERVED_KEYS.items():
                if key == ours or key.startswith(f"{ours}."):
                    raise field_error("space", f"'{key}' cannot be searched: {why}")
            if key.startswith("scale") and key != SEARCHABLE_SCALE_KEY:
                raise field_error(
                    "space", f"'{key}' cannot be searched: it changes nothing that is learned"
                )
        self._check_order()
        for i, point in enumerate(self.initial_points):
            for key, value in point.items():
                if key not in self.space:
                    raise field_error(f"first.{i}", f"'{key}' is not in the space")
                if not self.space[key].contains(value):
                    raise field_error(
                        f"first.{i}", f"{key}: {value!r} is not one of the space's values"
                    )
        if len(self.initial_points) > self.trials:
            raise field_error(
                "first", f"{len(self.initial_points)} points, but {self.trials} trials"
            )
        if self.steps < 2:
            raise field_error("budget", "a trial has two steps at least")
        if self.scheduler == "pbt":
            self._check_population()
        if self.search == "grid":
            if self.initial_points:
                raise field_error("first", "a grid has an order of its own; leave it out")
            for key, one in self.space.items():
                if one.choice is None and one.whole is None:
                    raise field_error(
                        "space", f"a grid has no end of values for '{key}'; write choice"
                    )
        return self

    def _check_objective(self) -> None:
        self.objective.check(self.train)
        kind, config = self.train.objective.kind, self.train.objective_config
        if self.gates.skill_over_copy is not None and not config.predicts_without_actions():
            raise field_error("gates.skill_over_copy", f"a model of '{kind}' keeps no predictor")
        for value in self.space["objective"].extreme_values if "objective" in self.space else ():
            if isinstance(value, dict):
                kind = str(value.get("kind", self.train.objective.kind))
                self.objective.check_predictor(objective_config_class(kind), kind, "space")
        if self.objective.splits_training_source(self.train):
            for key in self.space:
                if key.startswith(PACKING_KEYS):
                    text = "the sweep holds a share of the videos out, as they are packed once"
                    raise field_error("space", f"'{key}' cannot be searched: {text}")

    def _check_order(self) -> None:
        """A section that is chosen whole replaces what was set inside it before."""
        keys = list(self.space)
        for i, key in enumerate(keys):
            for later in keys[i + 1 :]:
                if key.startswith(f"{later}."):
                    raise field_error(
                        "space", f"'{later}' would replace '{key}': let it stand first"
                    )

    def _check_population(self) -> None:
        if self.trials < MIN_POPULATION:
            raise field_error(
                "trials", f"a population of pbt has {MIN_POPULATION} members at least"
            )
        if self.search != "random":
            raise field_error(
                "search", f"pbt moves values by itself: write random, not {self.search}"
            )
        for key, one in self.space.items():
            if not key.startswith(PBT_MUTABLE_PREFIXES) or any(
                isinstance(v, dict | list) for v in one.extreme_values
            ):
                raise field_error(
                    "space",
                    f"pbt cannot move '{key}': a child goes on from its parent's weights, so only"
                    " single values of optim, objective and data.augment can change",
                )

    @property
    def steps(self) -> int:
        """Optimizer steps of a trial."""
        if isinstance(self.budget, Budget):
            return self.budget.steps or self.train.optim.steps
        return self.budget

    @property
    def limits(self) -> Budget:
        """What the whole sweep may take."""
        return self.budget if isinstance(self.budget, Budget) else Budget()

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps after which a trial is scored: a tenth for the gates, then for the scheduler."""
        first = -(-self.steps // 10)
        if self.scheduler == "pbt":
            fifths = {-(-self.steps * part // 5) for part in range(1, 6)}
            return tuple(sorted(fifths | {first}))
        steps = [first]
        while self.scheduler == "asha" and steps[-1] * ASHA_REDUCTION_FACTOR * 2 <= self.steps:
            steps.append(steps[-1] * ASHA_REDUCTION_FACTOR)
        return (*steps, self.steps)
