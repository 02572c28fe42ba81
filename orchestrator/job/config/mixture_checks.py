"""What a training of several shapes of clips is refused for, before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomComponent, field_error
from orchestrator.job.config.data import ClipSpec

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob


def check_mixture(job: TrainJob) -> None:
    """Refuse sources whose clips are no tokens of the model, or that cannot be mixed.

    Raises:
        PydanticCustomError: at the key that is wrong.
    """
    for i, spec in enumerate(job.data.clip_specs if job.data.sources else ()):
        _check_tokens(job, i, spec)
    _check_actions(job)
    if job.data.default_clip_spec.bucket not in job.data.buckets:
        text = (
            f"no source has clips of data's own {job.data.default_clip_spec.bucket}, which is what"
            " evaluation, export and health look at"
        )
        raise field_error("data.sources", f"{text}; leave frames and size out of one source")
    if len(job.data.buckets) == 1:
        return
    for i, source in enumerate(job.data.sources):
        if source.weight is None:
            text = "steps are shared among shapes of clips by weight, and this source has none"
            raise field_error(f"data.sources.{i}.weight", f"{text}; give every source a weight")
    _check_shape_support(job)
    _check_masks(job)


def require_single_clip_spec(job: TrainJob, what: str) -> TrainJob:
    """The job, for what looks at clips of one kind.

    Raises:
        RequestError: a source is cut in another way than data says.
    """
    if set(job.data.clip_specs) != {job.data.default_clip_spec}:
        raise RequestError(
            f"{what} looks at clips of one kind, and sources have frames, fps or size of their own",
            where="data.sources",
            hint="give one of them as data.source",
        )
    return job


def _check_tokens(job: TrainJob, i: int, spec: ClipSpec) -> None:
    model, own = job.model, job.data.sources[i]
    if own.size and spec.size % model.patch:
        text = f"{spec.size} does not divide by model.patch {model.patch}"
        raise field_error(f"data.sources.{i}.size", text)
    if own.frames and spec.frames % model.tubelet:
        text = f"{spec.frames} does not divide by model.tubelet {model.tubelet}"
        raise field_error(f"data.sources.{i}.frames", text)


def _check_actions(job: TrainJob) -> None:
    if job.data.actions is None:
        return
    for i, source in enumerate(job.data.sources):
        for key in ("frames", "fps", "size"):
            if getattr(source, key) is not None:
                text = "beside data.actions all sources are cut alike"
                raise field_error(
                    f"data.sources.{i}.{key}", f"{text}; leave it out, or data.actions"
                )


def _check_shape_support(job: TrainJob) -> None:
    """Parts that are built for clips of one shape."""
    objective, config, encoder = job.objective, job.objective_config, job.model.encoder
    mend = f"give all sources the frames and size of data ({job.data.default_clip_spec.bucket})"
    if config.single_clip_shape and isinstance(objective, CustomComponent):
        text = "an objective of your own is built for clips of one shape"
        raise field_error(
            "objective.kind", f"{text} unless its Config states single_clip_shape = False; {mend}"
        )
    if config.single_clip_shape:
        text = f"{objective.kind} is built for clips of one shape, several moments long"
        raise field_error("objective.kind", f"{text}; {mend}, or take another objective")
    if isinstance(encoder, CustomComponent):
        text = "an encoder of your own is built for clips of one shape"
        raise field_error("model.encoder.kind", f"{text}; {mend}")
    teacher = config.pretrained_teacher
    if teacher is not None and isinstance(teacher.encoder, CustomComponent):
        text = "a teacher with an encoder of your own is built for clips of one shape"
        raise field_error("objective.encoder", f"{text}; {mend}")


def _check_masks(job: TrainJob) -> None:
    """Masks on the grid of every bucket; that of data is looked at by the job itself."""
    for i, spec in enumerate(job.data.clip_specs):
        where = f"does not fit data.sources.{i} ({spec.bucket}): "
        job.objective_config.check_masks(job, job.token_grid_of(spec.bucket), where)
