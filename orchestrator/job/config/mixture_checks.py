"""What a training of several shapes of clips is refused for, before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomPart, at
from orchestrator.job.config.data import ClipSpec
from orchestrator.job.config.masks import check_mask
from orchestrator.job.config.objective import VJEPA2AC, Causal, Dynamics, LeWM, Masked, Taught

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob


def check_mixture(job: TrainJob) -> None:
    """Refuse sources whose clips are no tokens of the model, or that cannot be mixed.

    Raises:
        PydanticCustomError: at the key that is wrong.
    """
    for i, spec in enumerate(job.data.specs if job.data.sources else ()):
        _check_tokens(job, i, spec)
    _check_actions(job)
    if job.data.own.bucket not in job.data.buckets:
        text = (
            f"no source has clips of data's own {job.data.own.bucket}, which is what evaluation,"
            " export and health look at"
        )
        raise at("data.sources", f"{text}; leave frames and size out of one source")
    if len(job.data.buckets) == 1:
        return
    for i, source in enumerate(job.data.sources):
        if source.weight is None:
            text = "steps are shared among shapes of clips by weight, and this source has none"
            raise at(f"data.sources.{i}.weight", f"{text}; give every source a weight")
    _check_parts(job)
    _check_masks(job)


def of_one_kind(job: TrainJob, what: str) -> TrainJob:
    """The job, for what looks at clips of one kind.

    Raises:
        RequestError: a source is cut in another way than data says.
    """
    if set(job.data.specs) != {job.data.own}:
        raise RequestError(
            f"{what} looks at clips of one kind, and sources have frames, fps or size of their own",
            where="data.sources",
            mend="give one of them as data.source",
        )
    return job


def _check_tokens(job: TrainJob, i: int, spec: ClipSpec) -> None:
    model, own = job.model, job.data.sources[i]
    if own.size and spec.size % model.patch:
        text = f"{spec.size} does not divide by model.patch {model.patch}"
        raise at(f"data.sources.{i}.size", text)
    if own.frames and spec.frames % model.tubelet:
        text = f"{spec.frames} does not divide by model.tubelet {model.tubelet}"
        raise at(f"data.sources.{i}.frames", text)


def _check_actions(job: TrainJob) -> None:
    if job.data.act is None:
        return
    for i, source in enumerate(job.data.sources):
        for key in ("frames", "fps", "size"):
            if getattr(source, key) is not None:
                text = "beside data.act all sources are cut alike"
                raise at(f"data.sources.{i}.{key}", f"{text}; leave it out, or data.act")


def _check_parts(job: TrainJob) -> None:
    """Parts that are built for clips of one shape."""
    objective, encoder = job.objective, job.model.encoder
    mend = f"give all sources the frames and size of data ({job.data.own.bucket})"
    if isinstance(objective, LeWM | Causal | Dynamics | VJEPA2AC):
        text = f"{objective.kind} is built for clips of one shape, several moments long"
        raise at("objective.kind", f"{text}; {mend}, or take another objective")
    if isinstance(objective, CustomPart):
        text = "an objective of your own is built for clips of one shape"
        raise at("objective.kind", f"{text}; {mend}")
    if isinstance(encoder, CustomPart):
        text = "an encoder of your own is built for clips of one shape"
        raise at("model.encoder.kind", f"{text}; {mend}")
    if isinstance(objective, Taught) and isinstance(objective.encoder, CustomPart):
        text = "a teacher with an encoder of your own is built for clips of one shape"
        raise at("objective.encoder", f"{text}; {mend}")


def _check_masks(job: TrainJob) -> None:
    """Masks on the grid of every bucket; that of data is looked at by the job itself."""
    if not isinstance(job.objective, Masked):
        return
    for i, spec in enumerate(job.data.specs):
        grid = job.grid_of(spec.bucket)
        for number, mask in enumerate(job.objective.masks):
            if isinstance(mask, CustomPart):
                continue
            try:
                check_mask(mask, grid)
            except RequestError as error:
                text = f"does not fit data.sources.{i} ({spec.bucket}): {error.what}"
                raise at(f"objective.masks.{number}", f"{text}; {error.mend}") from None
