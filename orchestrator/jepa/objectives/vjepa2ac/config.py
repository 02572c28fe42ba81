"""The keys of V-JEPA 2-AC, and what it states about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from orchestrator.job.config.base import field_error
from orchestrator.job.config.objective_base import PretrainedTeacherObjective

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob


class VJEPA2AC(PretrainedTeacherObjective):
    """V-JEPA 2-AC: a frozen encoder's features of the next frame, from action, state and features.

    arXiv 2506.09985, section 3.1. Every frame is encoded by itself. L1 of the next frame's
    features, told the ones so far (teacher forcing), + L1 of a rollout that goes on from
    predictions. Needs `data.actions`; with `representation: change` the state of a frame is told
    too, and follows from the change when the model plans. The teacher's encoder is the model's own:
    it is kept beside the predictor.
    """

    title = "V-JEPA 2-AC, a frozen encoder"
    objective_class = "orchestrator.jepa.objectives.vjepa2ac.objective:VJEPA2ACObjective"
    cost_class = "orchestrator.jepa.objectives.vjepa2ac.cost:VJEPA2ACCost"
    predictor_builder = "orchestrator.jepa.objectives.vjepa2ac.predictor:rebuild_predictor"
    reads_actions = True
    requires_actions = True
    trains_encoder = False
    encodes_single_frames = True
    single_clip_shape = True
    reads_feature_layers = True

    kind: Literal["vjepa2ac"] = "vjepa2ac"
    """The objective."""

    teacher: str = Field(min_length=1)
    """A trained model whose encoder is read: `models:/NAME@alias`, `runs:/ID/model` or a folder
    with its files. Its patches, tubelets and pixels are those of the job."""

    rollout: PositiveInt = 2
    """Frames that are predicted from a clip's first frame, all but the first from predictions.
    1: teacher forcing alone."""

    def check(self, job: TrainJob) -> None:
        """Actions are there, and the rollout is shorter than a clip."""
        super().check(job)
        if job.data.actions is None:
            text = "vjepa2ac predicts what follows an action"
            raise field_error(
                "data.actions", f"{text}; write data.actions: {{representation: change}} or given"
            )
        if self.rollout >= job.data.frames:
            text = f"{self.rollout} frames ahead of the first of {job.data.frames}"
            raise field_error("objective.rollout", f"{text}; lower it, or raise data.frames")
