"""From published weights to a training on one's own videos: import, run, probe before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from orchestrator.jepa.interop.import_model import import_model
from orchestrator.jepa.interop.imported_model import ImportOverrides
from orchestrator.jepa.model_files import load_folder
from orchestrator.job import build_job
from orchestrator.runner import run

pytestmark = pytest.mark.integration

SOURCE = "physics://mixed?clips=24&size=32&fps=16"


def probed(storage: Path, model: str, name: str) -> dict[str, Any]:
    """What a linear probe reads off a model's features of scenes that no training saw."""
    shared = {"name": name, "storage": str(storage)}
    source = {"source": f"{SOURCE}&seed=1000", "clips": 1}
    embed = {**shared, "kind": "embed", "model": model, "data": source, "pooling": "mean"}
    run(build_job(embed), local=True)
    probe = {"features": name, "target": "label"}
    evaluate = {**shared, "kind": "evaluate", "name": f"{name}-probe", "probe": probe}
    return dict(run(build_job(evaluate), local=True).metrics)


def test_training_goes_on_from_a_huggingface_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        patch_size=8,
        crop_size=32,
        frames_per_clip=4,
        hidden_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=2,
    )
    transformers.VJEPA2Model(config).save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "start", ImportOverrides())
    job = build_job(
        {
            "kind": "train",
            "name": "adapt",
            "storage": str(tmp_path / "st"),
            "data": {"source": SOURCE, "frames": 4, "size": 32},
            "model": {
                "encoder": {"dim": 48, "depth": 2, "heads": 2},
                "patch": 8,
                "predictor": {"dim": 24, "depth": 2, "heads": 2},
                "from": str(tmp_path / "start"),
            },
            "optim": {"steps": 3, "lr": 1e-5},
            "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
            "track": {"pictures": 0},
        }
    )
    before = probed(tmp_path / "st", str(tmp_path / "start"), "before")
    run(job, local=True)
    after_folder = tmp_path / "st" / "runs" / "adapt" / "model"
    start, trained = load_folder(tmp_path / "start"), load_folder(after_folder)
    for name, weight in start.encoder.named_parameters():
        moved = (weight - trained.encoder.get_parameter(name)).abs().max()
        assert moved < 1e-4, name  # random weights would be 0.02 away
    assert any(
        not torch.equal(w, trained.encoder.get_parameter(n))
        for n, w in start.encoder.named_parameters()
    )
    after = probed(tmp_path / "st", str(after_folder), "after")
    assert before.keys() == after.keys()
    assert before
