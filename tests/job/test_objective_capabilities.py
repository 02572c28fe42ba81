"""What every objective states about itself, and what a user's own gets by stating it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.errors import RequestError
from orchestrator.estimate import estimate_job
from orchestrator.job import VJEPA2, ObjectiveConfig, TrainJob, build_job
from orchestrator.job.config.objective import OBJECTIVES, import_path, objective_config_class
from orchestrator.job.loading.custom_components import import_component
from tests.support.estimates import planned_job

STATED = "tests.support.own_objective:StatedObjective"
PLAIN = "tests.support.own_objective:PlainObjective"

# kind: masked, autoregressive, reads actions, teacher, clips of one shape, predicts without actions
CAPABILITIES = {
    "vjepa2": (True, False, False, "ema", False, True),
    "vjepa21": (True, False, False, "ema", False, False),
    "lejepa": (True, False, False, "none", False, True),
    "lewm": (False, True, True, "none", True, True),
    "vicreg": (False, True, True, "none", True, True),
    "frozen": (True, False, False, "frozen", False, False),
    "pixels": (True, False, False, "none", False, True),
    "supervised": (False, False, False, "none", False, False),
    "causal": (False, True, False, "ema", True, True),
    "dynamics": (False, True, False, "fitted", True, True),
    "vjepa2ac": (False, False, True, "frozen", True, False),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_states_what_it_is(kind: str) -> None:
    config = objective_config_class(kind)
    assert CAPABILITIES[kind] == (
        config.predicts_masked_tokens,
        config.autoregressive,
        config.reads_actions,
        config.teacher_type,
        config.single_clip_shape,
        config.predicts_without_actions(),
    )
    assert config.title
    assert all(config.collapse_hints)
    # The key that the registry has is the one that a job file writes.
    assert config.model_fields["kind"].default == kind


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_import_path_of_an_objective_exists(kind: str) -> None:
    config = objective_config_class(kind)
    paths = [config.cost_class, config.predictor_builder, config.encoder_builder]
    paths.append(config.plan_rollout)
    paths.append(config.objective_class)  # type: ignore[attr-defined]
    for path in filter(None, paths):
        assert callable(import_component(path))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_config_can_be_imported_first_of_all_and_without_torch(kind: str) -> None:
    module, _, name = OBJECTIVES[kind].partition(":")
    code = f"import sys; from {module} import {name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_configs_are_names_of_the_job_package_too() -> None:
    assert import_path(OBJECTIVES["vjepa2"]) is VJEPA2
    with pytest.raises(ImportError, match="VJEPA3"):
        exec("from orchestrator.job import VJEPA3")


def test_only_its_own_folder_asks_which_objective_it_is() -> None:
    names = {path.partition(":")[2] for path in OBJECTIVES.values()}
    root = Path(orchestrator.__file__).parent
    asked = []
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_check = isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
            if is_check and names & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}:
                asked.append(str(file.relative_to(root)))
    # The comparison with the published V-JEPA 2 is of that objective alone.
    assert asked == ["bench/vjepa2_reference.py"]


def own_job(kind: str, **sections: Any) -> TrainJob:
    return planned_job(objective={"kind": kind}, **sections)


def test_an_objective_of_ones_own_that_states_its_cost_is_planned_as_a_built_in_one() -> None:
    own, built_in = (estimate_job(job) for job in (own_job(STATED), planned_job()))
    assert own.flops is not None
    assert (own.parameters, own.flops, own.memory) == (
        built_in.parameters,
        built_in.flops,
        built_in.memory,
    )


def test_one_that_states_nothing_has_no_made_up_cost_and_the_default_hints() -> None:
    job = own_job(PLAIN)
    assert estimate_job(job).flops is None
    assert job.objective_config.collapse_hints == ObjectiveConfig.collapse_hints
    assert not job.objective_config.keeps_predictor()


def test_one_that_states_it_learns_from_clips_of_several_shapes() -> None:
    sources = [
        {"uri": "videos", "weight": 1},
        {"uri": "photos", "weight": 1, "frames": 2, "size": 16},
    ]
    data = {"sources": sources, "size": 32, "frames": 8}
    assert len(own_job(STATED, data=data).data.buckets) == 2
    with pytest.raises(RequestError, match="an objective of your own is built for clips of one"):
        own_job(PLAIN, data=data)


def test_masks_of_ones_own_objective_are_checked_on_the_grid_like_any() -> None:
    masks = [{"kind": "future", "visible": [9, 9]}]
    with pytest.raises(RequestError, match=r"objective\.masks\.0"):
        planned_job(objective={"kind": STATED, "masks": masks})
    encoder = {"dim": 96, "depth": 3, "heads": 4, "attention": "moment"}
    with pytest.raises(RequestError, match="leaves nothing for the masks of"):
        own_job(STATED, model={"encoder": encoder, "patch": 8})


@pytest.mark.parametrize(("kind", "metric_is_refused"), [(STATED, False), (PLAIN, True)])
def test_trials_are_ranked_by_predictions_where_a_model_keeps_its_predictor(
    kind: str, metric_is_refused: bool
) -> None:
    train = own_job(kind).model_dump(mode="json", by_alias=True, exclude_unset=True)
    sweep = {
        "kind": "tune",
        "name": "sweep",
        "train": train,
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-3]}},
        "objective": {"metric": "retrieval"},
        "trials": 4,
        "budget": 40,
    }
    if metric_is_refused:
        with pytest.raises(RequestError, match="keeps none"):
            build_job(sweep)
    else:
        build_job(sweep)
