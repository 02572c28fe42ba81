"""Module paths of version 1593339 that code outside the package may name still work."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import import_component
from orchestrator.renamed_modules import NEW_NAMES, NEW_PATHS

# What README.md, the job files and the manifests of that version name.
NAMED_IN_DOCUMENTS = {
    "orchestrator.worlds.base:World": "orchestrator.environments.base:Environment",
    "orchestrator.worlds.two_rooms:TwoRooms": "orchestrator.environments.two_rooms:TwoRooms",
    "orchestrator.evaluation.judgeable:Judgeable": "orchestrator.evaluation.evaluable:Evaluable",
    "orchestrator.planning.base:Dynamics": "orchestrator.planning.base:PlannableModel",
    "orchestrator.evaluation.features:Features": "orchestrator.features:Features",
    "orchestrator.bench.ball:Ball": "orchestrator.bench.toy_source:Ball",
    "orchestrator.jepa.hub:load_folder": "orchestrator.jepa.model_files:load_folder",
    "orchestrator.job:Encoder": "orchestrator.job:ViTConfig",
    "orchestrator.job:VJEPA2": "orchestrator.job:VJEPA2",
    "orchestrator.data.sources:RawClip": "orchestrator.data.sources.base:RawClip",
    "orchestrator.data.augment:Augment": "orchestrator.data.loader.augment:Augmentation",
    "orchestrator.profile:load_profile": "orchestrator.cluster_profile:load_profile",
} | {
    f"orchestrator.jepa.objectives.{module}:{name}": (
        f"orchestrator.jepa.objectives.{module}.objective:{name}"
    )
    for module, name in {
        "vjepa2": "VJEPA2Objective",
        "vjepa21": "VJEPA21Objective",
        "vjepa2ac": "VJEPA2ACObjective",
        "causal": "CausalObjective",
        "dynamics": "DynamicsObjective",
        "frozen": "FrozenObjective",
        "lejepa": "LeJEPAObjective",
        "lewm": "LeWMObjective",
        "pixels": "PixelsObjective",
        "supervised": "SupervisedObjective",
    }.items()
}


@pytest.mark.parametrize("old", NAMED_IN_DOCUMENTS)
def test_an_import_path_of_the_old_documents_gives_the_same_object(old: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert import_component(old) is import_component(NAMED_IN_DOCUMENTS[old])


@pytest.mark.parametrize("module", sorted({*NEW_PATHS, *NEW_NAMES}))
def test_every_listed_module_and_name_exists(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        imported = importlib.import_module(module)
        for name in NEW_NAMES.get(module, {}):
            assert getattr(imported, name) is not None


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_importing_an_old_module_warns_once_with_the_new_path() -> None:
    twice = "import orchestrator.profile.schema; import orchestrator.profile.schema"
    done = _python("-W", "always::DeprecationWarning", "-c", twice)
    assert done.returncode == 0, done.stderr
    moved = "orchestrator.profile.schema is now orchestrator.cluster_profile.schema"
    assert done.stderr.count(moved) == 1
    assert "<string>:1" in done.stderr, "the warning points at the line that imports"


def test_a_submodule_taken_from_an_old_package_has_its_old_names() -> None:
    script = "from orchestrator.worlds import base; print(base.World.__name__)"
    assert _python("-c", script).stdout == "Environment\n"


def test_the_hook_of_pods_that_run_already_can_be_run_by_its_old_name() -> None:
    done = _python("-m", "orchestrator.clusters.leave", "--help")
    assert done.returncode == 0, done.stderr
    assert "--seconds" in done.stdout


def test_what_never_existed_is_still_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"orchestrator\.worlds\.moon"):
        importlib.import_module("orchestrator.worlds.moon")
    with pytest.raises(RequestError, match="has no 'Moon'"):
        import_component("orchestrator.worlds.base:Moon")
    with pytest.raises(RequestError, match="has no 'Moon'"):
        import_component("orchestrator.job:Moon")


def test_the_package_is_imported_without_what_its_modules_need() -> None:
    script = (
        "import sys, time; start = time.perf_counter(); import orchestrator;"
        " assert time.perf_counter() - start < 0.3, 'slow';"
        " heavy = {'torch', 'ray', 'numpy', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    )
    done = _python("-c", script)
    assert done.returncode == 0, done.stderr
    assert callable(importlib.import_module("orchestrator").plan)
