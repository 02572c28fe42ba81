"""The `evaluate` job: does a model expect what physics does, and wonder at what it does not?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from orchestrator.job.config.base import Name, Section, field_error
from orchestrator.job.config.benchmark import AnyBenchmark
from orchestrator.job.config.former_names import FormerName, with_present_keys
from orchestrator.job.config.planning import Planning
from orchestrator.job.config.probe import ProbeConfig

SuiteSplit = Literal["validation", "test", "ood"]


class Suite(Section):
    """Which quadruplets are shown: 2 contexts x 2 outcomes, possible where they match."""

    split: SuiteSplit = "test"
    """What the model is scored on. `ood` has shapes, colours, speeds and gravity of its own."""

    selection_split: Annotated[SuiteSplit, FormerName("choose")] = "validation"
    """What context and aggregation are chosen on; never what is scored."""

    scenarios: tuple[str, ...] = ()
    """Names of scenarios. Default: all that no trivial rule can decide (`lever` is left out)."""

    quads: PositiveInt = 20
    """Quadruplets of each scenario that are scored. Every four balance each other: left and right,
    which context comes first."""

    selection_quads: Annotated[PositiveInt, FormerName("choose_quads")] = 4
    """Quadruplets of each scenario that are chosen on."""

    frames: PositiveInt = 24
    """Frames of a video, at the model's frames a second; the model looks through a window."""

    sanity: NonNegativeInt = 8
    """Sets of videos of the sanity tier: a thing vanishes, jumps or changes colour in full view,
    against legal events as abrupt. Even numbers balance; 0 leaves the tier out."""

    arrow_of_time: Annotated[NonNegativeInt, FormerName("arrow")] = 8
    """Videos of each kind that are shown against their reverse. Even numbers balance; 0: none."""

    seed: NonNegativeInt = 0
    """Another seed, other quadruplets."""

    @model_validator(mode="after")
    def _chosen_elsewhere(self) -> Suite:
        if self.selection_split != "validation":
            text = (
                f"'{self.selection_split}' is for scoring: choosing on it would flatter the model"
            )
            raise field_error("suite.selection_split", f"{text}; write validation")
        if self.split == self.selection_split:
            raise field_error(
                "suite.split", "'validation' is what is chosen on; score 'test' or 'ood'"
            )
        return self


class Surprise(Section):
    """How surprise is measured: the distance of what comes from what was predicted."""

    context_frames: Annotated[tuple[PositiveInt, ...], FormerName("contexts")] = ()
    """Frames seen of a window, to choose from. Default: a quarter, a half and three quarters."""

    stride: PositiveInt = 8
    """Frames from one window to the next."""


SUITE_ONLY_KEYS = ("suite", "benchmark", "surprise", "random_models", "random_quads")
"""Keys that say nothing beside `probe` or `planning`."""


class EvaluateTrack(Section):
    """Where the result is kept."""

    uri: str | None = None
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, else a database in `storage`."""

    experiment: str = "evaluation"
    """MLflow experiment."""


class EvaluateJob(Section):
    """Judge a trained model by physics that is possible and physics that is not."""

    kind: Literal["evaluate"]
    """The job's kind."""

    name: Name
    """An identity: the same name writes the same report again."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves."""

    model: str = ""
    """models:/NAME@alias, models:/NAME/VERSION, runs:/ID/model, a model's folder, or
    package.module:Name for one of your own (see `orchestrator.evaluation.evaluable`). Beside
    `probe` it may be left out; features of another model are refused."""

    probe: ProbeConfig | None = None
    """Read a target off features that an `embed` job has written, in place of `suite`."""

    planning: Planning | None = None
    """Reach goals in a world by planning with the model, in place of `suite`."""

    suite: Suite = Suite()
    """What is shown."""

    benchmark: AnyBenchmark | None = None
    """A public benchmark that is shown instead of the suite."""

    surprise: Surprise = Surprise()
    """What is measured."""

    random_models: Annotated[int, FormerName("random")] = Field(10, ge=0)
    """Randomly initialised models of the same shape that are measured too: what is to be beaten."""

    random_quads: PositiveInt = 2
    """Quadruplets of each scenario (scenes of each property of a benchmark) that each of them
    sees, other ones than the one before. Futures are predicted of 64 clips."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of every interval (cluster bootstrap over quadruplets, or over a benchmark's scenes)."""

    track: EvaluateTrack = EvaluateTrack()
    """What MLflow remembers."""

    cpus: PositiveFloat = 1.0
    """CPU cores of a measuring task."""

    @model_validator(mode="after")
    def _check_suite_or_benchmark(self) -> EvaluateJob:
        if self.benchmark is not None and "suite" in self.model_fields_set:
            raise field_error(
                "suite", "a suite beside a benchmark: one job shows one of them; leave one out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _check_exclusive_sections(cls, job: Any) -> Any:
        if not isinstance(job, dict):
            return job
        job = with_present_keys(cls, job)
        for asked in ("probe", "planning"):
            if job.get(asked) is None:
                continue
            others = (*SUITE_ONLY_KEYS, "planning" if asked == "probe" else "probe")
            beside = [key for key in others if job.get(key) is not None]
            if beside:
                whose = "a suite" if beside[0] in SUITE_ONLY_KEYS else f"a {beside[0]}"
                text = f"belongs to {whose}; a job has a suite or a {asked}, not both"
                raise field_error(beside[0], text)
        if job.get("probe") is None and not job.get("model"):
            raise field_error(
                "model", "this key is required (features know their model, a suite does not)"
            )
        return job
