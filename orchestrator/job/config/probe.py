"""The `probe` section of an `evaluate` job: what can be read off frozen features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.job.config.base import Section, component_tag, field_error
from orchestrator.job.config.former_names import FormerName


class ProbeSplit(Section):
    """Which videos are learned from, chosen on and scored: a video is on one side only."""

    validation: float = Field(0.2, gt=0, lt=1)
    """Share of the videos that learning rate, weight decay or penalty are chosen on."""

    test: float = Field(0.2, gt=0, lt=1)
    """Share of the videos that the probe is scored on. None are taken where `probe.test_features`
    names other features."""

    seed: NonNegativeInt = 0
    """Another seed, another split."""

    @model_validator(mode="after")
    def _something_is_left(self) -> ProbeSplit:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation:g} and test {self.test:g} leave nothing to fit on"
            )
        return self


class RidgeHead(Section):
    """A linear map in closed form; its penalty is chosen on the validation videos."""

    kind: Literal["ridge"] = "ridge"
    """A linear map in closed form; its penalty is chosen on the validation videos."""


class Attentive(Section):
    """Cross-attention with a learned query, an MLP and a linear map, trained with every learning
    rate and weight decay side by side on the same batches (V-JEPA 2's protocol)."""

    kind: Literal["attentive"]
    """Cross-attention with a learned query, an MLP and a linear map."""

    lrs: tuple[PositiveFloat, ...] = Field((5e-3, 3e-3, 1e-3, 3e-4, 1e-4), min_length=1)
    """Peak learning rates; each decays to 0 along a cosine."""

    weight_decays: tuple[NonNegativeFloat, ...] = Field((0.01, 0.1, 0.4, 0.8), min_length=1)
    """Weight decays; a head is trained for each of them with each learning rate."""

    epochs: PositiveInt = 20
    """Passes over the rows that are learned from."""

    batch: PositiveInt = 64
    """Rows of a step."""

    seed: NonNegativeInt = 0
    """Of the heads' first weights and of the order of rows."""


AnyProbe = Annotated[
    Annotated[RidgeHead, Tag("ridge")] | Annotated[Attentive, Tag("attentive")],
    Discriminator(lambda v: component_tag(v, "ridge")),
]


class ProbeConfig(Section):
    """Read a target off features that an `embed` job has written."""

    features: str = Field(min_length=1)
    """Name of an embed job in this `storage`, or the path or URI of a folder of features."""

    target: Literal["label", "states"] = "label"
    """`label`: a clip's class. `states`: position, velocity and contact, in every tubelet, of the
    object that moves by itself (scenes with several are left out), or what KEY.states.npy holds;
    features pooled as `mean` have no tubelets."""

    head: AnyProbe = RidgeHead()
    """What reads."""

    test_features: Annotated[str | None, FormerName("test")] = None
    """Features of other videos to score on, made by the same model in the same way (a name or a
    path). Default: a share of `features`."""

    random_features: Annotated[str | None, FormerName("random")] = None
    """Features of a randomly initialised model of the same shape on the same videos (an embed job
    with `untrained`): the same probe reads them too, beside the model's."""

    random_test_features: Annotated[str | None, FormerName("random_test")] = None
    """The random model's features of the videos of `test`."""

    split: ProbeSplit = ProbeSplit()
    """Which videos are learned from, chosen on and scored."""

    @model_validator(mode="after")
    def _random_sees_the_same(self) -> ProbeConfig:
        if self.random_test_features is not None and (
            self.random_features is None or self.test_features is None
        ):
            raise field_error(
                "probe.random_test_features",
                "goes with probe.random_features and probe.test_features",
            )
        if (
            self.random_features is not None
            and self.test_features is not None
            and self.random_test_features is None
        ):
            raise field_error(
                "probe.random_test_features",
                "is needed beside probe.test_features and probe.random_features",
            )
        return self
