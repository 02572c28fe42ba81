"""The code of a registered model: MLflow keeps this file beside the weights and runs it to load.

No pickle: the weights are the safetensors of `jepa/model_files.py`, the code is this text.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from orchestrator.jepa.model_files import load_folder


class EncoderPyfunc(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Video uint8 [B, T, H, W, 3] to features float32 [B, tokens, dim]."""

    def load_context(self, context: PythonModelContext) -> None:
        """Called once, with the folder of weights in `context.artifacts["model"]`."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_folder(Path(context.artifacts["model"]), device)

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,  # bare, as MLflow knows it
        params: dict[str, Any] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Features of a batch of clips."""
        features: np.ndarray[Any, Any] = self.model.encode(model_input).cpu().numpy()
        return features


set_model(EncoderPyfunc())
