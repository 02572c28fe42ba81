"""Kill processes of trainings, and compare the results with an uninterrupted run.

Every blow strikes a run of its own: the process of a rank, the driver (which is then started
again, as a person would) or a node, at a moment counted from a commit: right after it, or a
drawn time later. What must hold afterwards: the run finishes, its loss at every step and its
final weights are the uninterrupted run's to the bit, its ledger agrees with the order, and no
checkpoint that had been committed was gone when it went on.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from orchestrator.bench.local_ray_cluster import LocalRayCluster, local_ray_cluster
from orchestrator.errors import JobFailed
from orchestrator.estimate import estimate_job
from orchestrator.job import TrainJob, job_dict
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import (
    checkpoint_step,
    list_complete_checkpoints,
    read_full_tensors,
)

FaultTarget = Literal["rank", "driver", "node"]
FAULT_TARGETS: tuple[FaultTarget, ...] = ("rank", "driver", "node")

PATIENCE_S = 300.0
POLL_S = 0.01


@dataclass(frozen=True)
class InjectedFault:
    """What is killed, and when: `delay_s` after the run's `commit`-th checkpoint is complete."""

    victim: FaultTarget
    rank: int
    commit: int
    delay_s: float


@dataclass
class FaultOutcome:
    """Outcome of one run with a fault."""

    blow: InjectedFault
    step: int
    """The last committed step at the time of the fault."""

    resumed_at: int
    """The step from which it resumed."""

    recovery_s: float | None
    """Seconds from the fault to the end of the next step; None if no step remained."""

    same_losses: bool
    same_weights: bool
    audited: bool

    @property
    def good(self) -> bool:
        """Whether the run equals the uninterrupted one, and no clip was lost."""
        same = self.same_losses and self.same_weights and self.audited
        return same and self.resumed_at >= self.step

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"good": self.good}


def draw_faults(
    job: TrainJob, count: int, seed: int, victims: tuple[FaultTarget, ...]
) -> list[InjectedFault]:
    """Draw `count` faults over the targets; every third happens right after a commit.

    All in the first three quarters: a run that has ended cannot be struck.
    """
    draw = random.Random(seed)
    commits = job.optim.steps // job.checkpoint.every
    return [
        InjectedFault(
            victims[i % len(victims)],
            draw.randrange(job.scale.max_workers),
            draw.randint(1, max(1, commits * 3 // 4)),
            0.0 if i // len(victims) % 3 == 0 else draw.uniform(0, 1.5),
        )
        for i in range(count)
    ]


BASELINE_RUN = "calm"
"""The name of the uninterrupted run."""


class RunHarness:
    """Runs of one job in one storage, under names of their own, in processes of their own.

    Every step is logged. `folder` takes the storage and the output of each run.
    """

    def __init__(self, job: TrainJob, folder: Path) -> None:
        track = job.track.model_copy(update={"every": 1, "pictures": 0, "register_as": None})
        self.job, self.folder = job.model_copy(update={"track": track}), folder
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = Storage(str(folder / "storage"))
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def start(self, name: str, *options: str, **changes: Any) -> subprocess.Popen[bytes]:
        """`orchestrator run` of the job under another name; its output goes to NAME.log.

        `options` of the command; `changes` of the job, `__` for a dot.
        """
        data = {**job_dict(self.job), "name": name, "storage": self.storage.root}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(data))
        command = [sys.executable, "-m", "orchestrator", "run", str(file), *options]
        command += [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=self.env, start_new_session=True
            )

    def run_baseline(self, name: str = BASELINE_RUN) -> str:
        """Run the baseline without faults, once; returns its name."""
        if not list_complete_checkpoints(self.checkpoints(name)):
            self.finish(self.start(name), name)
        return name

    def finish(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait for the end of a run.

        Raises:
            JobFailed: it did not end well.
        """
        code = process.wait(PATIENCE_S)
        if code:
            log = (self.folder / f"{name}.log").read_text().strip().splitlines()
            raise JobFailed(f"run {name} ended with code {code}: {' / '.join(log[-3:])}")

    def checkpoints(self, name: str) -> Storage:
        return self.storage.subfolder("runs", name, "checkpoints")

    def workers(self, name: str) -> dict[str, Any]:
        """Where the ranks are (`workers.json`); empty before the first step."""
        folder = self.storage.subfolder("runs", name)
        found: dict[str, Any] = (
            folder.read_json("workers.json") if folder.exists("workers.json") else {}
        )
        return found

    def wait_for(
        self,
        process: subprocess.Popen[bytes],
        name: str,
        ready: Callable[[], Any],
        every_s: float = POLL_S,
    ) -> Any:
        """Poll until `ready()` is true, while the run lives.

        Raises:
            JobFailed: the run ended before, or it took too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not (found := ready()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise JobFailed(f"run {name} ended before its moment came")
            time.sleep(every_s)
        return found

    def losses(self, name: str) -> list[tuple[int, float]]:
        """(step, loss) of every logged step, as MLflow has them: a step's twins too."""
        return sorted((row.step, row.value) for row in self.metric_history(name, "train/loss"))

    def metric(self, name: str, key: str) -> dict[int, float]:
        """A metric of the run by step."""
        return {row.step: row.value for row in self.metric_history(name, key)}

    def metric_history(self, name: str, key: str) -> list[Any]:
        """The rows of a metric as MLflow has them."""
        from orchestrator.tracking.server import mlflow_client
        from orchestrator.training.run_record import read_record

        record = read_record(self.storage.subfolder("runs", name))
        assert record is not None
        rows: list[Any] = mlflow_client(record.mlflow_uri).get_metric_history(
            record.mlflow_run_id, key
        )
        return rows

    def weights_digest(self, name: str) -> str:
        """sha256 of the student and the teacher in the newest checkpoint."""
        folder, digest = self.checkpoints(name), hashlib.sha256()
        newest = list_complete_checkpoints(folder)[-1]
        for key, value in sorted(read_full_tensors(folder, newest).items()):
            digest.update(key.encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()


def inject_fault(
    arena: RunHarness, name: str, blow: InjectedFault, calm: str, nodes: LocalRayCluster | None
) -> FaultOutcome:
    """Run with one fault, and compare with the run `calm`."""
    from orchestrator.training.audit import audit_run

    process = arena.start(name)
    folder = arena.checkpoints(name)
    # Old checkpoints are dropped: the step counts them, not their number.
    step = blow.commit * arena.job.checkpoint.every

    def committed() -> bool:
        there = list_complete_checkpoints(folder)
        return bool(there) and checkpoint_step(there[-1]) >= step

    arena.wait_for(process, name, lambda: committed() and arena.workers(name))
    time.sleep(blow.delay_s)
    ranks = {r["rank"]: r["pid"] for r in arena.workers(name)["ranks"]}
    before = checkpoint_step(list_complete_checkpoints(folder)[-1])
    struck_at = time.time()
    if blow.victim == "rank":
        os.kill(ranks[blow.rank], signal.SIGKILL)
    elif blow.victim == "driver":
        process.kill()
        process.wait()
        process = arena.start(name)
    else:
        assert nodes is not None
        nodes.kill_node(ranks[blow.rank])
        nodes.add()

    def went_on() -> bool:
        return bool(arena.workers(name).get("first_step_at", 0) > struck_at)

    # A blow after the last step leaves nothing to train: the new start only ends the run.
    arena.wait_for(process, name, lambda: went_on() or process.poll() == 0)
    recovery = arena.workers(name)["first_step_at"] - struck_at if went_on() else None
    arena.finish(process, name)
    log = (arena.folder / f"{name}.log").read_text()
    resumed = [int(line.split()[3]) for line in log.splitlines() if "resumed at step" in line]
    return FaultOutcome(
        blow,
        before,
        resumed[-1] if resumed else 0,
        recovery,
        arena.losses(name) == arena.losses(calm),
        arena.weights_digest(name) == arena.weights_digest(calm),
        audit_run(arena.storage, name).good,
    )


def bench_fault_injection(
    arena: RunHarness,
    blows: list[InjectedFault],
    on_outcome: Callable[[FaultOutcome], None] = lambda struck: None,
) -> dict[str, Any]:
    """Strike a run of the arena's job for each blow, after the uninterrupted one.

    Returns:
        rows: what became of each; good: of how many nothing was lost; recovery_s: the median;
        and what `checkpoint_cost` gives.

    Raises:
        JobFailed: a run did not finish.
    """
    struck: list[FaultOutcome] = []

    def strike_all(
        which: list[tuple[int, InjectedFault]], calm: str, nodes: LocalRayCluster | None
    ) -> None:
        for number, blow in which:
            struck.append(inject_fault(arena, f"blow-{number:02d}", blow, calm, nodes))
            on_outcome(struck[-1])

    numbered = list(enumerate(blows, 1))
    others = [n for n in numbered if n[1].victim != "node"]
    if others:
        strike_all(others, arena.run_baseline(), None)
    of_nodes = [n for n in numbered if n[1].victim == "node"]
    if of_nodes:
        with local_ray_cluster(arena, spare=1) as nodes:
            # A rank that has a node for itself has more threads, which add in another order: the
            # same bits are to be had from the same threads only.
            strike_all(of_nodes, arena.run_baseline(f"{BASELINE_RUN}-nodes"), nodes)
    recoveries = sorted(one.recovery_s for one in struck if one.recovery_s is not None)
    return {
        "rows": [one.to_dict() for one in struck],
        "good": sum(one.good for one in struck),
        "blows": len(struck),
        "recovery_s": recoveries[len(recoveries) // 2] if recoveries else None,
        **checkpoint_cost(arena, BASELINE_RUN if others else f"{BASELINE_RUN}-nodes"),
    }


def checkpoint_cost(arena: RunHarness, name: str) -> dict[str, float | None]:
    """What checkpoints cost the run `name`, which nothing happened to.

    Returns:
        saving_s: seconds that a step was held up by a save, the mean over all saves;
        saving_share: of the time of all steps; checkpoint_bytes: the newest one's, as it lies in
        the storage; checkpoint_over_plan: over the bytes that `plan` names, None if it cannot.
    """
    rows = arena.metric(name, "speed/saving")
    seconds = arena.metric(name, "speed/step_s")
    held = sum(share * seconds[step] for step, share in rows.items())
    folder, every = arena.checkpoints(name), arena.job.checkpoint.every
    newest = list_complete_checkpoints(folder)[-1]
    size = sum(entry.size for entry in folder.files(newest))
    theory = estimate_job(arena.job).checkpoint_bytes
    return {
        "saving_s": held / max(1, arena.job.optim.steps // every),
        "saving_share": held / sum(seconds.values()),
        "checkpoint_bytes": float(size),
        "checkpoint_over_plan": size / theory if theory else None,
    }
