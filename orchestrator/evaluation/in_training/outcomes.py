"""What came of the evaluations of a training: in its storage, each once, and then in MLflow."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from orchestrator.evaluation.in_training.queue import Turn
from orchestrator.storage import Storage, patiently
from orchestrator.tracking.results.evaluation import REPORT, SCORES, VERDICT
from orchestrator.tracking.results.in_training import link_judged, record_judged
from orchestrator.tracking.run import RunRef
from orchestrator.training.checkpoints.eval_exports import FOLDER, MODEL, RESULT, folder_of, is_cut
from orchestrator.training.checkpoints.manager import folder_name, step_of

FILES = (REPORT, VERDICT, SCORES)

State = Literal["done", "failed", "skipped"]


@dataclass
class Result:
    """What came of one evaluation of one checkpoint (`result.json`)."""

    state: State
    at_ms: int
    """When it ended, ms since 1970: the time of its metrics, however often they are sent."""

    seconds: float
    """How long it took."""

    metrics: dict[str, float]
    """As MLflow has them; of a failed or skipped one, how many there are by now."""

    error: str = ""
    told: bool = False
    """MLflow has it."""

    linked: bool = False
    """The checkpoint's LoggedModel has it too."""


class Results:
    """The results of a run's evaluations, earlier launches' too."""

    def __init__(self, folder: Storage, evaluations: list[str]) -> None:
        self._folder = folder
        self._found: dict[Turn, Result] = {}
        self.pending: list[Turn] = []
        """Models that an earlier launch cut and did not judge, oldest first."""

        self._unlinked: list[Turn] = []
        for evaluation in evaluations:
            for name in folder.folders(f"{FOLDER}/{evaluation}"):
                self._load(Turn(evaluation, step_of(name)))

    def _load(self, turn: Turn) -> None:
        place = self.place(turn)
        if place.exists(RESULT):
            self._keep(turn, Result(**place.read_json(RESULT)))
        elif is_cut(place):
            self.pending.append(turn)

    def place(self, turn: Turn) -> Storage:
        """Where the turn's model and result are."""
        return folder_of(self._folder, turn.evaluation, turn.step)

    def of(self, turn: Turn) -> Result | None:
        """What came of it, once something has."""
        return self._found.get(turn)

    def count(self, evaluation: str, state: State) -> int:
        """How many of an evaluation's turns ended so."""
        return sum(
            turn.evaluation == evaluation and result.state == state
            for turn, result in self._found.items()
        )

    def write(self, turn: Turn, result: Result, files: Mapping[str, str]) -> None:
        """Keep a result for good, and drop the model that it is about. The first one stays."""
        place = self.place(turn)
        for name, text in files.items():
            patiently(place.write_bytes, name, text.encode())
        text = json.dumps(asdict(result), indent=2)
        if not patiently(place.create, RESULT, text.encode()):
            result = Result(**place.read_json(RESULT))
        self._keep(turn, result)
        patiently(place.delete_tree, MODEL)

    def _keep(self, turn: Turn, result: Result) -> None:
        self._found[turn] = result
        if result.state == "done" and not result.linked:
            self._unlinked.append(turn)

    @property
    def untold(self) -> bool:
        """Whether MLflow lacks something."""
        return any(not result.told for result in self._found.values())

    def tell(self, ref: RunRef) -> None:
        """MLflow gets what it has not got.

        Raises:
            MlflowException: the server is away, or refuses.
            OSError: its artifact store does, or the run's own storage.
        """
        for turn, result in self._found.items():
            if result.told:
                continue
            place = self.place(turn)
            files = FILES if result.state == "done" else ()
            texts = {name: place.read_bytes(name).decode() for name in files}
            path = f"{turn.evaluation}/{folder_name(turn.step)}"
            record_judged(ref, path, turn.step, result.at_ms, result.metrics, texts)
            result.told = True
            place.write_json(RESULT, asdict(result))

    def link(self, ref: RunRef, standing: Collection[int]) -> None:
        """The LoggedModels of checkpoints get what was found of them, as far as they are there.

        Those of checkpoints that do not stand any more are not waited for.

        Raises:
            MlflowException: the server is away, or refuses.
        """
        for turn in list(self._unlinked):
            result = self._found[turn]
            result.linked = link_judged(ref, turn.step, result.at_ms, result.metrics)
            if result.linked:
                self.place(turn).write_json(RESULT, asdict(result))
            if result.linked or turn.step not in standing:
                self._unlinked.remove(turn)
