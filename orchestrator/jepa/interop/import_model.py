"""One way in for models that were made elsewhere."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import RequestError
from orchestrator.jepa.interop.huggingface import read_huggingface
from orchestrator.jepa.interop.imported_model import (
    ImportOverrides,
    import_error,
    write_imported_model,
)
from orchestrator.jepa.interop.vjepa2_checkpoint import read_vjepa2_checkpoint
from orchestrator.jepa.model_config import ModelConfig


def import_model(source: Path, folder: Path, overrides: ImportOverrides) -> ModelConfig:
    """Write our folder of a Hugging Face folder's, or of a vjepa2 .pt file's, model.

    Nothing is written unless all of it fits.

    Raises:
        RequestError: the source is neither, is damaged, or is another model; `folder` is filled.
    """
    if not source.exists():
        raise RequestError(
            "nothing is here", where=str(source), hint="name a Hugging Face folder, or a .pt file"
        )
    if source.suffix == ".safetensors":
        raise import_error(
            source,
            "weights alone do not say of what model they are",
            hint="name their folder, which has a config.json",
        )
    read = read_huggingface if source.is_dir() else read_vjepa2_checkpoint
    return write_imported_model(read(source, overrides), folder)
