"""The text on top of a run's page: what was trained on what, what came of it, how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orchestrator.estimate import estimate_job
from orchestrator.job import (
    ConvEncoderConfig,
    PCAEncoderConfig,
    TrainJob,
    ViTConfig,
)
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.config.model import AnyEncoder

# Metrics worth a line of their own, with the name a person reads.
SHOWN_METRICS = {
    "train/loss": "loss",
    "health/rankme": "RankMe",
    "health/feature_std": "feature std",
    "health/token_cosine": "token cosine",
    "health/teacher_distance": "teacher distance",
}


class FinishedRun(Protocol):
    """What the note reads of a finished run (`orchestrator.runner.RunSummary` is one)."""

    @property
    def seconds(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def clips_per_s(self) -> float: ...
    @property
    def dataset(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def model_uri(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def next_steps(self) -> Sequence[str]: ...


def initial_description(job: TrainJob) -> str:
    """Markdown for a run that has only begun."""
    table = _table(_model_rows(job))
    return f"{_headline(job)}\n\nIn training: {job.optim.steps:,} steps.\n\n{table}\n"


def result_description(job: TrainJob, finished: FinishedRun, pictures: Mapping[str, str]) -> str:
    """Markdown for a run that has ended. MLflow shows its first lines only: the result leads.

    `pictures` maps captions to addresses of pictures, as a page of the server resolves them.
    """
    result = f"Result: **{_metrics_text(finished.metrics)}** after {finished.steps:,} steps."
    rows = [
        *_model_rows(job),
        *_dataset_rows(finished.dataset),
        (
            "Trained",
            f"{finished.steps:,} steps x {job.scale.global_batch} clips in"
            f" {_duration(finished.seconds)}, {finished.clips_per_s:.1f} clips/s",
        ),
        ("Checkpoint", f"`{finished.checkpoint}`"),
        ("Model", f"`{finished.model_uri}`"),
    ]
    parts = [_headline(job), result, _usage(job, finished.model_uri)]
    if finished.next_steps:
        parts.append("**What to do next**\n\n```sh\n" + "\n".join(finished.next_steps) + "\n```")
    parts += [f"**{caption}**\n\n![{caption}]({link})" for caption, link in pictures.items()]
    return "\n\n".join([*parts, _table(rows)]) + "\n"


def _headline(job: TrainJob) -> str:
    counted = estimate_job(job).parameters
    size = f", {_count(counted.trained)} trained parameters" if counted else ""
    sources = [job.data.source] if job.data.source else [s.uri for s in job.data.sources]
    video = " + ".join(f"`{source}`" for source in sources)
    return f"**{_objective(job)}** world model of {video}{size}."


def _objective(job: TrainJob) -> str:
    title, kind = job.objective_config.title, job.objective.kind
    own = isinstance(job.objective, CustomComponent)
    return f"{title} ({kind})" if own and title else title or kind


def _model_rows(job: TrainJob) -> list[tuple[str, str]]:
    data, model = job.data, job.model
    time, height, width = job.grid
    encoder = _encoder_text(model.encoder, model.patch)
    return [
        ("Encoder", f"{encoder}, patch {model.patch}, tubelet {model.tubelet}"),
        ("Predictor", _predictor_text(job)),
        (
            "Clip",
            f"{data.frames} frames at {data.fps:g} fps, {data.size} x {data.size} px"
            f" = {time} x {height} x {width} tokens",
        ),
        *_other_clip_rows(job),
    ]


def _predictor_text(job: TrainJob) -> str:
    return job.objective_config.describe_predictor(job.model.predictor)


def _encoder_text(encoder: AnyEncoder, patch: int) -> str:
    if isinstance(encoder, PCAEncoderConfig):
        return f"linear codes of {encoder.dim} numbers, not trained"
    if isinstance(encoder, ConvEncoderConfig):
        return f"convolutions of {', '.join(map(str, encoder.channels(patch)))} channels"
    if isinstance(encoder, ViTConfig):
        return f"{encoder.depth} blocks of {encoder.dim}, {encoder.heads} heads"
    return f"`{encoder.kind}`"


def _other_clip_rows(job: TrainJob) -> list[tuple[str, str]]:
    """The clips of sources that are cut in other ways than data's own."""
    other = [
        spec for spec in dict.fromkeys(job.data.clip_specs) if spec != job.data.default_clip_spec
    ]
    text = "; ".join(f"{s.frames} frames at {s.fps:g} fps, {s.size} x {s.size} px" for s in other)
    return [("Other clips", text)] if other else []


def _dataset_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not facts:
        return []
    text = (
        f"{facts['clips']:,} clips, {facts['hours']:.1f} h, {facts['bytes'] / 1e9:.2f} GB,"
        f" digest `{facts['digest']}`"
    )
    lost = facts["quarantined"]
    return [("Dataset", text + (f", {lost:,} quarantined" if lost else ""))]


def _metrics_text(metrics: Mapping[str, float]) -> str:
    known = [f"{name} {metrics[key]:.4g}" for key, name in SHOWN_METRICS.items() if key in metrics]
    return ", ".join(known) or "no metrics"


def _usage(job: TrainJob, model_uri: str) -> str:
    name = job.track.register_as
    uri = f"models:/{name}@candidate" if name else model_uri
    time, height, width = job.grid
    count = time if job.objective_config.one_token_per_timestep else time * height * width
    encoder = job.model.encoder
    dim = (
        encoder.dim
        if isinstance(encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)
        else "dim"
    )
    size, frames = job.data.size, job.data.frames
    return (
        "**Use it**\n\n```python\n"
        "from orchestrator import load_model\n\n"
        f'model = load_model("{uri}")\n'
        f"tokens = model.encode(video)  # uint8 [B, {frames}, {size}, {size}, 3]"
        f" -> float32 [B, {count}, {dim}]\n{_predict_usage(job)}```"
    )


def _predict_usage(job: TrainJob) -> str:
    """How a model that acts is asked what follows."""
    act = job.data.actions
    if act is None:
        return ""
    states = ", states" if act.representation == "change" else ""
    what = (
        "changes of the state" if states else f"{act.frameskip or 'a block of'} control steps each"
    )
    return (
        f"ahead = model.predict(tokens, actions{states})  # actions float32"
        f" [B, moments, {act.action_dim or 'D'}]: {what}, in the data's units\n"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = [(name, text.replace("|", "\\|")) for name, text in rows]
    return "\n".join(
        ["| | |", "|:--|:--|", *(f"| {name}&emsp; | {text} |" for name, text in cells)]
    )


def _count(number: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
