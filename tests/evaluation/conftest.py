"""A tiny model that has learnt nothing, as the evaluation takes it."""

from __future__ import annotations

import pytest
import torch
from tiny import config_of, tiny_job

from orchestrator.jepa.hub import WorldModel, random_model


@pytest.fixture
def tiny() -> WorldModel:
    model = random_model(config_of(tiny_job()), 0)
    assert model.predictor is not None
    with torch.no_grad():  # they start at zero: the two masks would be one
        model.predictor.mask_tokens.normal_(generator=torch.Generator().manual_seed(1))
    return model
