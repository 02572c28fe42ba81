"""The model card of an export: Hugging Face's README.md, with what a user must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from orchestrator.jepa.model_config import ModelConfig
from orchestrator.jepa.world_model import WorldModel

# Where things were kept and by whom is nobody else's business.
_SHOWN_SECTIONS = ("seed", "data", "model", "objective", "optim")
_LOCATION_KEYS = ("source", "sources")
_RUNTIME_KEYS = ("decode_threads", "prefetch", "bad_limit")


@dataclass(frozen=True)
class ModelCardData:
    """What stands beside the weights."""

    name: str
    license: str
    """Identifier as the Hub spells it: `apache-2.0`, `cc-by-nc-4.0`, `unknown`."""

    dataset: str = ""
    """Digest of the data that it was trained on."""

    fingerprint: str = ""
    """Of the training job."""

    metrics: Mapping[str, float] = field(default_factory=dict)


def model_card(model: WorldModel, facts: ModelCardData) -> str:
    """The text of README.md, with the Hub's header."""
    head = {
        "license": facts.license,
        "library_name": "transformers",
        "tags": ["vjepa2", "video", "world-model"],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {facts.name}",
        _summary_section(model),
        _usage_section(model),
        f"## Data\n\n{_data_section(facts)}",
        f"## Metrics\n\n{_metrics_section(facts.metrics)}",
        f"## Recipe\n\n{_recipe_section(model.config, facts)}",
        f"## Licence\n\n`{facts.license}`",
    ]
    return "\n\n".join(parts) + "\n"


def _summary_section(model: WorldModel) -> str:
    clip, encoder = model.clip, sum(p.numel() for p in model.encoder.parameters())
    predictor = sum(p.numel() for p in model.parameters()) - encoder
    return (
        f"A video encoder of {encoder:,} parameters and its predictor of {predictor:,}"
        f" (`{model.config.objective}`), for clips of {clip.frames} frames at"
        f" {clip.fps:g} a second, {clip.size} x {clip.size} pixels."
    )


def _usage_section(model: WorldModel) -> str:
    asked = 1 % max(model.masks, 1)
    return f"""## Use

```python
from transformers import VJEPA2Model

model = VJEPA2Model.from_pretrained(FOLDER).eval()
features = model(pixel_values_videos=video, skip_predictor=True).last_hidden_state
```

`video` is float [B, T, 3, {model.clip.size}, {model.clip.size}], normalised by ImageNet's mean and
spread. The predictor has a mask token for each kind of mask of the recipe ({model.masks});
transformers always asks with number {asked}."""


def _data_section(facts: ModelCardData) -> str:
    if not facts.dataset:
        return "The digest of the data is not recorded beside these weights."
    return f"Trained on the dataset with digest `{facts.dataset}`."


def _metrics_section(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return "None are recorded beside these weights."
    rows = [f"| {name} | {value:.5g} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _recipe_section(config: ModelConfig, facts: ModelCardData) -> str:
    origin = config.extra.get("imported")
    if origin:
        return f"Brought in from elsewhere ({origin}); how it was trained is not recorded here."
    job = {key: config.job[key] for key in _SHOWN_SECTIONS if key in config.job}
    if "data" in job:
        left = (*_LOCATION_KEYS, *_RUNTIME_KEYS)
        job["data"] = {key: value for key, value in job["data"].items() if key not in left}
    if "model" in job:
        job["model"] = {key: value for key, value in job["model"].items() if key != "from"}
    mark = f"Fingerprint of the job: `{facts.fingerprint}`.\n\n" if facts.fingerprint else ""
    return f"{mark}```yaml\n{yaml.safe_dump(job, sort_keys=False)}```"
