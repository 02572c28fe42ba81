"""A registered model, or a folder's, as files that others load."""

from __future__ import annotations

from pathlib import Path

from orchestrator.jepa.interop.huggingface import export_huggingface
from orchestrator.jepa.interop.model_card import ModelCardData, model_card
from orchestrator.jepa.model_files import load_folder
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.registry import show_model


def export_to_huggingface(
    uri: str, folder: Path, *, license: str, tracking_uri: str | None = None
) -> None:
    """Write a model as a folder for `VJEPA2Model.from_pretrained`, with its card.

    Raises:
        RequestError: there is no such model, `VJEPA2Model` has no place for it, or `folder` is
            not empty.
        DataError: the model's folder is damaged.
    """
    with model_folder(uri, tracking_uri=tracking_uri) as source:
        model = load_folder(source)
    export_huggingface(model, folder, model_card(model, _facts(uri, license, tracking_uri)))


def _facts(uri: str, licence: str, tracking: str | None) -> ModelCardData:
    """What the registry knows of a version; of a folder only its name is known."""
    if not uri.startswith("models:/"):
        return ModelCardData(Path(uri).name, licence)
    version = show_model(uri, tracking)
    return ModelCardData(
        version.name,
        licence,
        version.tags.get("dataset", ""),
        version.tags.get("fingerprint", ""),
        version.metrics,
    )
