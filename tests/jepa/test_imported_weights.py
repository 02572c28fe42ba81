"""Weights that come in: read rightly whatever float type and however many files, or refused by the
tensor's name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.errors import OrchestratorError, RequestError
from orchestrator.jepa.interop.huggingface import export_huggingface
from orchestrator.jepa.interop.import_model import import_model
from orchestrator.jepa.interop.imported_model import ImportOverrides
from orchestrator.jepa.interop.model_card import ModelCardData, model_card
from orchestrator.jepa.model_files import load_folder, load_weights_into, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.weights import SHARD_INDEX_FILE, WEIGHTS_FILE, describe_invalid_tensor

State = dict[str, Tensor]
NORM = "encoder.layernorm.weight"


@pytest.fixture
def folder(tmp_path: Path, make_job: Any) -> Path:
    """A folder as Hugging Face's models have it."""
    job = make_job()
    save_model(tmp_path / "model", build_objective(job), None, job, {})
    model = load_folder(tmp_path / "model")
    export_huggingface(model, tmp_path / "hf", model_card(model, ModelCardData("mine", "mit")))
    return tmp_path / "hf"


def rewrite(folder: Path, change: Callable[[State], State]) -> None:
    save_file(
        change(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE, metadata={"format": "pt"}
    )


def shard(folder: Path, count: int = 3) -> dict[str, str]:
    """Cut the weights into shards; gives what the index says."""
    state = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    places: dict[str, str] = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = {name: state[name] for name in sorted(state)[i::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    write_index(folder, places)
    return places


def write_index(folder: Path, places: dict[str, Any]) -> None:
    (folder / SHARD_INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def spoiled(name: str, value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        state[name].view(-1)[1] = value
        return state

    return change


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as error:
        import_model(folder, folder.parent / "in", ImportOverrides())
    assert error.value.exit_code == 2
    assert not (folder.parent / "in").exists()


@pytest.mark.parametrize(
    ("value", "kind"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
def test_a_number_that_is_not_finite_is_refused(folder: Path, value: float, kind: str) -> None:
    rewrite(folder, spoiled(NORM, value))
    refused(folder, f"{NORM} is not finite: {kind} in 1 of 48 numbers")


@pytest.mark.parametrize(
    "dtype",
    [
        "int8",
        "uint8",
        "int16",
        "int32",
        "int64",
        "bool",
        "complex64",
        "float8_e4m3fn",
        "float8_e5m2",
    ],
)
def test_a_type_that_is_no_float_is_refused(folder: Path, dtype: str) -> None:
    kind = getattr(torch, dtype)
    rewrite(folder, lambda state: {**state, NORM: state[NORM].to(kind)})
    refused(folder, f"{NORM} is of type {dtype}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, True])
def test_every_float_type_is_read_whole_or_in_shards(
    folder: Path, dtype: torch.dtype, sharded: bool
) -> None:
    rewrite(folder, lambda state: {name: value.to(dtype) for name, value in state.items()})
    wanted = load_file(folder / WEIGHTS_FILE)[NORM].float()
    if sharded:
        shard(folder)
    import_model(folder, folder.parent / "in", ImportOverrides())
    found = load_file(folder.parent / "in" / WEIGHTS_FILE)["encoder.norm.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_a_double_that_float32_cannot_hold_is_refused(folder: Path) -> None:
    rewrite(folder, lambda state: {**state, NORM: torch.full((48,), 1e300, dtype=torch.float64)})
    refused(folder, f"{NORM} is not finite: infinite in 48")


def test_a_shard_with_nan_is_refused_by_the_tensor(folder: Path) -> None:
    rewrite(folder, spoiled(NORM, math.nan))
    shard(folder)
    refused(folder, f"{NORM} is not finite: NaN")


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model-00002-of-00003.safetensors, which is missing")


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard(folder)
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, r"model-00002-of-00003\.safetensors: cannot read the weights")


def test_a_tensor_that_no_shard_holds_is_named(folder: Path) -> None:
    write_index(folder, {**shard(folder), "ghost": "model-00001-of-00003.safetensors"})
    refused(folder, "ghost is not in model-00001")


def test_a_tensor_that_the_index_does_not_know_is_named(folder: Path) -> None:
    places = shard(folder)
    write_index(folder, {name: file for name, file in places.items() if name != NORM})
    refused(folder, f"{NORM} of model-0000.* does not stand in it")


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    places = shard(folder)
    other = next(file for file in places.values() if file != places[NORM])
    part = load_file(folder / other) | {NORM: torch.ones(48)}
    save_file(part, folder / other)
    refused(folder, f"{NORM} is in {other}, the index says {places[NORM]}")


@pytest.mark.parametrize(
    "file", ["../hf2/model.safetensors", "/etc/passwd", "..", "sub/x.safetensors", "a\\b", "", "\0"]
)
def test_an_index_reads_nothing_outside_of_its_folder(folder: Path, file: str) -> None:
    write_index(folder, {**shard(folder), NORM: file})
    refused(folder, "leads out of the folder")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no weight_map"),
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no name of a file"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_an_index_that_is_none(folder: Path, text: str, reason: str) -> None:
    shard(folder)
    (folder / SHARD_INDEX_FILE).write_text(text)
    refused(folder, reason)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (WEIGHTS_FILE, "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (WEIGHTS_FILE, "", "cannot read the weights"),
        (WEIGHTS_FILE, "no tensors at all", "cannot read the weights"),
        ("config.json", "version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("config.json", '{"model_type": "vjepa2", "hid', "no JSON"),
        ("config.json", "", "no JSON"),
        ("config.json", "[" * 100_000, "no JSON"),
        ("config.json", "[]", "no model_type"),
    ],
)
def test_files_that_are_cut_or_left_behind(folder: Path, name: str, text: str, reason: str) -> None:
    (folder / name).write_text(text)
    refused(folder, reason)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.gguf"]
)
def test_weights_that_may_hold_code_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / WEIGHTS_FILE).rename(folder / name)
    refused(folder, f"{name} is no safetensors file")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    refused(folder, "No such file")


def test_weights_without_their_folder(folder: Path) -> None:
    refused(folder / WEIGHTS_FILE, "do not say of what model")


def test_a_config_of_a_billion_blocks_is_refused_at_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    refused(folder, "1,000,000,00. blocks")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {**state, NORM: state[NORM][:-1].clone()},
        lambda state: {**state, NORM: torch.empty(0)},
        lambda state: {**state, NORM: state[NORM][None]},
        lambda state: {name: value for name, value in state.items() if name != NORM},
    ],
    ids=["short", "empty", "another rank", "missing"],
)
def test_tensors_of_another_shape(folder: Path, change: Callable[[State], State]) -> None:
    rewrite(folder, change)
    refused(folder, NORM)


def test_a_checkpoint_of_vjepa2_with_nan(tmp_path: Path) -> None:
    broken = {"patch_embed.proj.weight": torch.full((4, 3, 2, 8, 8), math.nan)}
    torch.save({"encoder": broken, "predictor": {}}, tmp_path / "vitl.pt")
    refused(tmp_path / "vitl.pt", r"encoder\.patch_embed\.proj\.weight is not finite: NaN")


def test_sparse_tensors_are_refused() -> None:
    assert describe_invalid_tensor({"a": torch.eye(3).to_sparse()}) == "a is sparse"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_of_ours_that_is_not_finite_starts_and_judges_nothing(
    folder: Path, make_job: Any, value: float
) -> None:
    model = folder.parent / "model"
    rewrite(model, spoiled("encoder.norm.weight", value))
    for use in (
        load_folder,
        lambda place: load_weights_into(build_objective(make_job()), place),
    ):
        with pytest.raises(
            OrchestratorError, match=r"encoder\.norm\.weight is not finite"
        ) as error:
            use(model)
        assert error.value.exit_code == 2
