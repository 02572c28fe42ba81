"""A tiny model that has learnt nothing, as the evaluation takes it."""

from __future__ import annotations

import pytest
import torch

from orchestrator.jepa.model_files import WorldModel, randomly_initialized_model
from tests.support.tiny import model_config, tiny_job


@pytest.fixture
def tiny_model() -> WorldModel:
    model = randomly_initialized_model(model_config(tiny_job()), 0)
    assert model.predictor is not None
    with torch.no_grad():  # they start at zero: the two masks would be one
        model.predictor.mask_tokens.normal_(generator=torch.Generator().manual_seed(1))
    return model
