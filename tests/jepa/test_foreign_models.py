"""Models in and out: Hugging Face's folders, vjepa2's .pt files, and what is refused of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.errors import DataError, RequestError
from orchestrator.jepa.interop.huggingface import export_huggingface
from orchestrator.jepa.interop.import_model import import_model
from orchestrator.jepa.interop.imported_model import ImportOverrides
from orchestrator.jepa.interop.model_card import ModelCardData, model_card
from orchestrator.jepa.model_files import (
    WorldModel,
    check_initial_weights,
    load_folder,
    load_weights_into,
    save_model,
)
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise

SMALL: dict[str, Any] = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 8,
    "hidden_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A small folder as `VJEPA2Model.save_pretrained` writes it; only its first mask token was
    trained, as in those that were published."""
    torch.manual_seed(3)
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**SMALL))
    with torch.no_grad():
        model.predictor.embeddings.mask_tokens[0].normal_()
    model.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def exported(tmp_path: Path, make_job: Any, *overrides: str) -> tuple[WorldModel, Path]:
    """A model of ours with drawn mask tokens, and its export."""
    job = make_job(*overrides)
    objective = build_objective(job)
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if name == "predictor.mask_tokens":
                parameter.normal_()
    save_model(tmp_path / "model", objective, None, job, {})
    model, out = load_folder(tmp_path / "model"), tmp_path / "export"
    export_huggingface(model, out, model_card(model, ModelCardData("mine", "apache-2.0")))
    return model, out


def test_an_export_loads_strictly_with_equal_features(
    tmp_path: Path, make_job: Any, video: Tensor
) -> None:
    ours, folder = exported(tmp_path, make_job)
    theirs, info = transformers.VJEPA2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    context, target = torch.arange(20).expand(2, -1), torch.arange(20, 64).expand(2, -1)
    pixels = normalise(video, torch.float32).transpose(1, 2)
    with torch.no_grad():
        answer = theirs.eval()(pixels, context_mask=[context], target_mask=[target])
    features = ours.encode(video)
    assert (answer.last_hidden_state - features).abs().max() < 1e-5
    said = ours.foresee(features[:, :20], 1)  # transformers asks with the second mask token
    assert (answer.predictor_output.last_hidden_state - said).abs().max() < 1e-5

    processor = json.loads((folder / "video_preprocessor_config.json").read_text())
    assert processor["video_processor_type"] == "VJEPA2VideoProcessor"
    assert processor["crop_size"] == {"height": 32, "width": 32}


def test_out_and_in_again_changes_nothing(tmp_path: Path, make_job: Any) -> None:
    future = "{kind: future, targets: 0.3}"
    masks = f"objective.masks=[{{targets: 0.5, context: 0.2}}, {future}, {{targets: 0.4}}]"
    ours, folder = exported(tmp_path, make_job, masks, "data.fps=7.5")
    import_model(folder, tmp_path / "again", ImportOverrides())
    again = load_folder(tmp_path / "again")
    assert again.clip == ours.clip
    assert again.masks == 3
    assert again.config.job["objective"] == ours.config.job["objective"]
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


def test_the_card_says_what_a_user_must_know(tmp_path: Path, make_job: Any) -> None:
    ours, _ = exported(
        tmp_path, make_job, "data.source=/home/me/secret", "model.from=/secret", "optim.lr=0.25"
    )
    facts = ModelCardData("mine", "cc-by-nc-4.0", "d1635700", "f1b2", {"health_rankme": 12.5})
    text = model_card(ours, facts)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-nc-4.0"
    for word in ("d1635700", "f1b2", "health_rankme | 12.5", "lr: 0.25", "kind: vjepa2"):
        assert word in text
    assert "secret" not in text


def test_what_huggingface_has_no_place_for(tmp_path: Path, make_job: Any) -> None:
    for overrides, reason in (
        (("objective={kind: pixels}",), "pixels"),
        (("model.rope=paired",), "paired"),
        (("objective={kind: causal, horizons: 1}", "model.encoder.attention=moment"), "causal"),
    ):
        with pytest.raises(RequestError, match=f"no place for this model: .*{reason}"):
            exported(tmp_path, make_job, *overrides)
        assert not (tmp_path / "export").exists()


def test_training_starts_from_a_huggingface_folder(
    published: Path, tmp_path: Path, make_job: Any
) -> None:
    import_model(published, tmp_path / "start", ImportOverrides())
    objective = build_objective(make_job())
    load_weights_into(objective, tmp_path / "start")
    state = load_file(published / "model.safetensors")
    qkv = objective.get_parameter("encoder.blocks.1.attn.qkv.weight")
    assert torch.equal(qkv[48:96], state["encoder.layer.1.attention.key.weight"])
    # Both of our kinds of mask begin with the only token that was trained.
    first = state["predictor.embeddings.mask_tokens"][0].flatten()
    for token in objective.get_parameter("predictor.mask_tokens"):
        assert torch.equal(token, first)

    for override, reason in (
        ("model.rope=paired", "model.rope: 'tiled' -> 'paired'"),
        ("model.encoder.heads=4", "model.encoder.heads: 2 -> 4"),
        ("model.predictor.heads=4", "model.predictor.heads: 2 -> 4"),
        ("model.patch=4", "model.patch: 8 -> 4"),
    ):
        with pytest.raises(RequestError, match=reason):
            check_initial_weights(make_job(override), tmp_path / "start")
    with pytest.raises(DataError, match=r"Hugging Face(.|\n)*models import"):
        load_weights_into(objective, published)


def spoilt_config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return spoil


def spoilt_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return spoil


KEY = "encoder.layer.1.attention.key.weight"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (
        lambda folder: transformers.ViTConfig().save_pretrained(folder),
        "type 'vit', not 'vjepa2'",
    ),
    "a classifier": (
        spoilt_config(architectures=["VJEPA2ForVideoClassification"]),
        "a VJEPA2ForVideoClassification, not a VJEPA2Model",
    ),
    "another activation": (spoilt_config(hidden_act="silu"), "hidden_act 'silu'"),
    "without biases": (spoilt_config(qkv_bias=False), "qkv_bias False"),
    "another variant": (
        spoilt_config(orchestrator={"fps": 4.0, "objective": {"kind": "vjepa2"}, "rope": "paired"}),
        "rope 'paired'",
    ),
    "heads that do not divide": (spoilt_config(num_attention_heads=5), "does not divide by heads"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "no JSON"),
    "a missing tensor": (spoilt_tensors(lambda s: s.pop(KEY)), f"{KEY} is missing"),
    "an extra tensor": (
        spoilt_tensors(lambda s: s.update({"head.weight": torch.zeros(2)})),
        "head.weight is not known",
    ),
    "a wrong shape": (
        spoilt_tensors(lambda s: s.update({KEY: torch.zeros(48, 24)})),
        rf"{KEY} is \[48, 24\], not \[48, 48\]",
    ),
    "torn weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04N."),
        "cannot read the weights",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot read"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_huggingface_folder_is_refused_whole(
    case: str, published: Path, tmp_path: Path
) -> None:
    spoil, reason = SPOILT[case]
    spoil(published)
    with pytest.raises(RequestError, match=reason) as error:
        import_model(published, tmp_path / "ours", ImportOverrides())
    assert "\n" not in error.value.what
    assert not (tmp_path / "ours").exists()


def test_wishes_and_folders_that_are_refused(published: Path, tmp_path: Path) -> None:
    for wishes, reason in (
        (ImportOverrides(rope="paired"), "VJEPA2Model rotates 'tiled'"),
        (ImportOverrides(size=30), "do not divide"),
    ):
        with pytest.raises(RequestError, match=reason):
            import_model(published, tmp_path / "ours", wishes)
    with pytest.raises(RequestError, match="nothing is here"):
        import_model(tmp_path / "nowhere", tmp_path / "ours", ImportOverrides())
    with pytest.raises(RequestError, match="something here already"):
        import_model(published, published, ImportOverrides())
    import_model(published, tmp_path / "ours", ImportOverrides(size=64, frames=16, fps=2.0))
    clip = load_folder(tmp_path / "ours").clip
    assert (clip.size, clip.frames, clip.fps, clip.grid) == (64, 16, 2.0, (8, 8, 8))


def vjepa2_checkpoint(**parts: Any) -> dict[str, Any]:
    """What facebookresearch/vjepa2 saves, of a ViT-tiny with a shallow predictor.

    Its names and shapes, written out here; values are drawn.
    """
    rng = torch.Generator().manual_seed(7)

    def block(name: str, dim: int) -> dict[str, Tensor]:
        shapes = {
            "norm1": (dim,),
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "norm2": (dim,),
            "mlp.fc1": (4 * dim, dim),
            "mlp.fc2": (dim, 4 * dim),
        }
        out = {f"{name}.{key}.weight": shape for key, shape in shapes.items()}
        out |= {f"{name}.{key}.bias": shape[:1] for key, shape in shapes.items()}
        return {key: 0.05 * torch.randn(shape, generator=rng) for key, shape in out.items()}

    def encoder() -> dict[str, Tensor]:
        state = {"patch_embed.proj.weight": torch.randn(192, 3, 2, 8, 8, generator=rng)}
        state["patch_embed.proj.bias"] = torch.zeros(192)
        for i in range(12):
            state |= block(f"blocks.{i}", 192)
        return state | {"norm.weight": torch.ones(192), "norm.bias": torch.zeros(192)}

    predictor = {f"mask_tokens.{i}": torch.zeros(1, 1, 384) for i in range(10)}
    predictor["mask_tokens.0"] += 1.0
    predictor |= block("predictor_blocks.0", 384)
    for name, shape in (("embed", (384, 192)), ("norm", (384,)), ("proj", (192, 384))):
        predictor[f"predictor_{name}.weight"] = torch.randn(shape, generator=rng)
        predictor[f"predictor_{name}.bias"] = torch.zeros(shape[0])
    predictor["predictor_pos_embed"] = torch.zeros(1, 64, 384)

    def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"module.backbone.{key}": value for key, value in state.items()}

    return {
        "encoder": wrapped(encoder()),
        "target_encoder": wrapped(encoder()),
        "predictor": wrapped(predictor),
        "opt": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "scaler": None,
        "epoch": 1,
        "loss": 0.5,
    } | parts


def test_a_published_checkpoint_gives_its_target_encoder(tmp_path: Path) -> None:
    whole = vjepa2_checkpoint()
    torch.save(whole, tmp_path / "vit.pt")
    import_model(tmp_path / "vit.pt", tmp_path / "ours", ImportOverrides(size=32, frames=4))
    model = load_folder(tmp_path / "ours")
    shape = model.config.model
    assert (shape.encoder.heads, shape.predictor.heads, shape.patch) == (3, 12, 8)  # type: ignore[union-attr]
    state = model.state_dict()
    theirs = whole["target_encoder"]["module.backbone.blocks.3.attn.qkv.weight"]
    assert torch.equal(state["encoder.blocks.3.attn.qkv.weight"], theirs)
    weight = whole["target_encoder"]["module.backbone.patch_embed.proj.weight"]
    video = torch.randn(1, 3, 4, 32, 32)
    wanted = torch.nn.functional.conv3d(video, weight, stride=(2, 8, 8)).flatten(2).mT
    assert (model.encoder.patch_embed(video) - wanted).abs().max() < 1e-3  # type: ignore[operator]
    assert torch.equal(state["predictor.mask_tokens"], torch.ones(2, 384))


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save(vjepa2_checkpoint(epoch=Trap(trap)), tmp_path / "trap.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap(trap)))
    for name in ("trap.pt", "bare.pt"):
        with pytest.raises(RequestError, match="holds code") as error:
            import_model(tmp_path / name, tmp_path / "ours", ImportOverrides())
        assert "\n" not in error.value.what
    assert not trap.exists()
    assert not (tmp_path / "ours").exists()


def without(part: str, key: str) -> dict[str, Any]:
    state = dict(vjepa2_checkpoint()[part])
    del state[f"module.backbone.{key}"]
    return {part: state}


def with_extra(part: str, key: str, value: Tensor) -> dict[str, Any]:
    return {part: vjepa2_checkpoint()[part] | {f"module.backbone.{key}": value}}


def test_published_checkpoints_that_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (without("target_encoder", "blocks.2.attn.qkv.bias"), "blocks.2.attn.qkv.bias is missing"),
        (without("predictor", "predictor_proj.bias"), "predictor.proj.bias is missing"),
        (with_extra("target_encoder", "cls_token", torch.zeros(1)), "cls_token is not known"),
        (with_extra("target_encoder", "norms_block.0.bias", torch.zeros(1)), "V-JEPA 2.1"),
        (
            with_extra("target_encoder", "blocks.1.mlp.fc1.weight", torch.zeros(1, 192)),
            r"fc1.weight is \[1, 192\], not \[768, 192\]",
        ),
        (without("target_encoder", "patch_embed.proj.weight"), "no video transformer"),
        ({"predictor": "none"}, "no tensors under 'predictor'"),
        (with_extra("target_encoder", "norm.weight", torch.ones(100)), "of no published size"),
    ]
    for parts, reason in cases:
        torch.save(vjepa2_checkpoint(**parts), tmp_path / "spoilt.pt")
        with pytest.raises(RequestError, match=reason):
            import_model(tmp_path / "spoilt.pt", tmp_path / "ours", ImportOverrides())
        assert not (tmp_path / "ours").exists()
    (tmp_path / "spoilt.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RequestError, match="no checkpoint of torch"):
        import_model(tmp_path / "spoilt.pt", tmp_path / "ours", ImportOverrides())
