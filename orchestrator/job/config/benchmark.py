"""The `benchmark` of an `evaluate` job: a public set of videos, as its users have it on disk."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from orchestrator.job.config.base import Section, component_tag, field_error
from orchestrator.job.config.former_names import FormerName


class _Benchmark(Section):
    """What every benchmark takes."""

    folder: str = Field(min_length=1)
    """Where the unpacked benchmark lies: a folder, s3:// or gs://."""

    scenes: PositiveInt | None = None
    """At most so many scenes of each property are scored. Default: all. Which: by a hash of their
    names."""

    selection_fraction: Annotated[float, FormerName("choose_share")] = Field(0.2, gt=0, lt=1)
    """Share of each property's scenes that context and aggregation are chosen on, by a hash of
    their names. They are never scored."""

    bad_limit: float = Field(0.0, ge=0, lt=1)
    """Share of the scenes that may be left out: files missing, unpaired, unreadable or too short.
    Each one is named in the report. Above it the job ends."""


class _ViolationOfExpectation(_Benchmark):
    """A set of pairs: something possible and something impossible."""

    properties: tuple[str, ...] = ()
    """What is judged, by the benchmark's own names. Default: all that are there."""


class IntPhys(_ViolationOfExpectation):
    """IntPhys 2019, dev set: `O1/01/1/scene/scene_001.png` and `O1/01/1/status.json`."""

    kind: Literal["intphys"]
    """IntPhys 2019."""

    fps: PositiveFloat = 15.0
    """Frames a second that the PNG files stand for; they do not say it themselves."""


class IntPhys2(_ViolationOfExpectation):
    """IntPhys 2: `Main/metadata.csv` with `Main/Videos/*.mp4`, or `labels.csv` with `Images/`."""

    kind: Literal["intphys2"]
    """IntPhys 2."""

    split: Literal["Main", "Debug"] = "Main"
    """What is scored. `HeldOut` comes without labels."""

    selection_split: Annotated[
        Literal["Debug", "share", "Main", "HeldOut"], FormerName("choose")
    ] = "Debug"
    """What context and aggregation are chosen on: the set made for calibration, or `share`, a
    share of the scored split's scenes (`choose_share`)."""

    fps: PositiveFloat = 60.0
    """Frames a second that the pictures in `Images` stand for; videos say it themselves."""

    @model_validator(mode="after")
    def _chosen_elsewhere(self) -> IntPhys2:
        if self.selection_split in ("Main", "HeldOut"):
            text = (
                f"'{self.selection_split}' is for scoring: choosing on it would flatter the model"
            )
            raise field_error("benchmark.selection_split", f"{text}; write Debug or share")
        if self.selection_split == self.split:
            text = f"'{self.split}' is what is chosen on"
            raise field_error("benchmark.split", f"{text}; score Main, or write choose: share")
        return self


class Grasp(_ViolationOfExpectation):
    """GRASP, level 2: `P_Collision/000.mp4` beside `IP_Collision/000.mp4`; also its parents."""

    kind: Literal["grasp"]
    """GRASP, level 2."""


class InfLevel(_ViolationOfExpectation):
    """InfLevel-lab: `continuity/CAMERA__continuity__COVER__OBJECT__vv__LR.mp4` and the like."""

    kind: Literal["inflevel"]
    """InfLevel-lab."""

    priming: str | None = None
    """A folder with `continuity.csv`, `gravity.csv`, `solidity.csv` as jepa-intuitive-physics
    has them: pairs, and the frame at which priming ends; what comes before is not shown.
    Default: pairs by file name, whole videos."""


class MovingMnist(_Benchmark):
    """Moving MNIST: `mnist_test_seq.npy`, uint8 [20, 10000, 64, 64]. Rollouts."""

    kind: Literal["moving-mnist"]
    """Moving MNIST, its test sequences."""


class Clevrer(_Benchmark):
    """CLEVRER: `video_10000-11000/video_10000.mp4`, `annotation_10000-11000/...json`, anywhere
    below the folder. Rollouts, and a probe of the objects' states."""

    kind: Literal["clevrer"]
    """CLEVRER, its validation split."""

    selection_split: Annotated[
        Literal["train", "share", "validation", "test"], FormerName("choose")
    ] = "train"
    """What the view is chosen on and the probe is fitted to: the training split, or `share`, a
    share of the validation split (`choose_share`)."""

    selection_videos: Annotated[PositiveInt, FormerName("choose_scenes")] = 256
    """At most so many videos of what is chosen on, by a hash of their names."""

    @model_validator(mode="after")
    def _chosen_elsewhere(self) -> Clevrer:
        if self.selection_split in ("validation", "test"):
            text = (
                f"'{self.selection_split}' is for scoring: choosing on it would flatter the model"
            )
            raise field_error("benchmark.selection_split", f"{text}; write train or share")
        return self


ViolationOfExpectation = IntPhys | IntPhys2 | Grasp | InfLevel
"""Judged by violated expectations."""

RolloutBenchmark = MovingMnist | Clevrer
"""Judged by predicted futures."""

AnyBenchmark = Annotated[
    Annotated[IntPhys, Tag("intphys")]
    | Annotated[IntPhys2, Tag("intphys2")]
    | Annotated[Grasp, Tag("grasp")]
    | Annotated[InfLevel, Tag("inflevel")]
    | Annotated[MovingMnist, Tag("moving-mnist")]
    | Annotated[Clevrer, Tag("clevrer")],
    Discriminator(component_tag),
]
