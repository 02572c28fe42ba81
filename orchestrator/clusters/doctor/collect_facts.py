"""Collect facts from every node of a Ray cluster, by an actor on each."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

from orchestrator.clusters.doctor.facts import AllReduceRates, ClusterFacts, NodeFacts
from orchestrator.clusters.doctor.job_datasets import find_datasets
from orchestrator.clusters.doctor.node_probe import NodeProbe, ProbeRequest
from orchestrator.clusters.doctor.node_speed import RENDEZVOUS_TIMEOUT_S
from orchestrator.errors import RequestError
from orchestrator.job import Job
from orchestrator.progress import Progress
from orchestrator.storage import Storage

ANSWER_S = 120.0
"""Timeout of a call to a node, in seconds; the first one starts a process and imports torch."""

CLOCK_SAMPLES = 5


@dataclass
class _ProbedNode:
    """A node and the actor on it; every call adds to `facts`."""

    name: str
    address: str
    actor: Any
    facts: dict[str, Any]


def collect_facts(job: Job | None, storage: str, progress: Progress) -> ClusterFacts:
    """Collect all facts for the checks, about the cluster that Ray is connected to.

    A node that does not respond is listed in `unresponsive`; that is not an error.
    """
    data = find_datasets(job, Storage(storage))
    mlflow, mlflow_error = _tracking(job, Storage(storage))
    request = ProbeRequest(storage, f".doctor-{uuid.uuid4().hex[:8]}", mlflow, data.packed)
    team = _NodeProbes(request, progress)
    try:
        team.call_all("looking at {} node(s)", "machine")
        team.measure_clock_offsets()
        team.call_all("writing to the storage", "write")
        writers = [m.name for m in team.responsive if not m.facts["write_error"]]
        team.call_all("reading from it", "read", writers)
        team.call_all("asking MLflow, reading data", "services")
        team.measure_rates()
        network = team.measure_network(job)
    finally:
        team.close()
    return ClusterFacts(
        nodes=tuple(NodeFacts(name=m.name, **m.facts) for m in team.responsive),
        storage=storage,
        mlflow=mlflow,
        mlflow_error=mlflow_error,
        job=job,
        datasets=data.packed,
        unpacked_sources=data.unpacked_sources,
        data_error=data.error,
        unresponsive=team.unresponsive,
        network=network,
    )


def _tracking(job: Job | None, storage: Storage) -> tuple[str, str]:
    """The MLflow URI, or why there is none: (uri, error)."""
    from orchestrator.tracking.server import tracking_uri

    track = getattr(job, "track", None)
    try:
        return tracking_uri(track.uri if track else None, storage), ""
    except RequestError as error:
        return "", f"{error.what}; {error.hint}"


class _NodeProbes:
    """An actor on every alive node; it reserves no resources."""

    def __init__(self, request: ProbeRequest, progress: Progress) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._progress = progress
        self.unresponsive: dict[str, str] = {}
        self.responsive: list[_ProbedNode] = []
        self._actors: list[Any] = []
        for name, node in alive_nodes_by_name(ray.nodes()).items():
            has = node["Resources"]
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Without this Ray hides GPUs from actors that reserve none.
            shown = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
            options = {"runtime_env": shown} if has.get("GPU") else {}
            actor = ray.remote(num_cpus=0, scheduling_strategy=here, **options)(NodeProbe)
            facts = {
                "cpus": has.get("CPU", 0.0),
                "gpus": int(has.get("GPU", 0)),
                "object_store": int(has.get("object_store_memory", 0)),
                "write_error": "",
            }
            probe = actor.remote(name, request)
            self._actors.append(probe)
            self.responsive.append(_ProbedNode(name, node["NodeManagerAddress"], probe, facts))

    def call_all(self, saying: str, method: str, *args: Any) -> None:
        """Call a method on all nodes in parallel; nodes that fail are not called again."""
        self._progress.message(saying.format(len(self.responsive)))
        self._gather({m.name: getattr(m.actor, method).remote(*args) for m in self.responsive})

    def _gather(self, answers: dict[str, Any]) -> None:
        import ray

        deadline = time.monotonic() + ANSWER_S
        for member in list(self.responsive):
            left = max(0.1, deadline - time.monotonic())
            try:
                member.facts.update(ray.get(answers[member.name], timeout=left))
            except ray.exceptions.RayError as error:
                self._mark_unresponsive(member, error)

    def _mark_unresponsive(self, member: _ProbedNode, error: Exception) -> None:
        self.unresponsive[member.name] = _reason(error)
        self.responsive.remove(member)

    def measure_clock_offsets(self) -> None:
        """Measure each clock's offset from the driver's: the fastest of several round trips."""
        import ray

        for member in list(self.responsive):
            looks = []
            try:
                for _ in range(CLOCK_SAMPLES):
                    sent = time.time()
                    there = ray.get(member.actor.clock.remote(), timeout=ANSWER_S)
                    back = time.time()
                    looks.append((back - sent, there - (sent + back) / 2))
            except ray.exceptions.RayError as error:
                self._mark_unresponsive(member, error)
                continue
            took, ahead = min(looks)
            member.facts.update(clock_s=ahead, clock_error_s=took / 2)

    def measure_rates(self) -> None:
        """Measure matrix products on all nodes in parallel."""
        self._progress.message("multiplying matrices")
        asked = {m.name: m.actor.rates.remote(m.facts["gpu_list"]) for m in self.responsive}
        self._gather(asked)

    def measure_network(self, job: Job | None) -> AllReduceRates | None:
        """Measure all-reduce over the nodes that would train: those with GPUs, else with cores."""
        on_cpu = getattr(getattr(job, "scale", None), "device", "auto") == "cpu"
        with_gpus = [] if on_cpu else [m for m in self.responsive if m.facts["gpus"]]
        backend = "nccl" if with_gpus else "gloo"
        group = with_gpus or [m for m in self.responsive if m.facts["cpus"]]
        if len(group) < 2:
            return None
        self._progress.message(f"all-reduce over {len(group)} nodes by {backend}")
        try:
            whole = min(self._all_reduce_rates([group], backend).values())
            best: dict[str, float] = {}
            for pairs in neighbours(group):
                for name, speed in self._all_reduce_rates(pairs, backend).items():
                    best[name] = max(speed, best.get(name, 0.0))
        except Exception as error:  # of torch or of Ray, and of any kind
            return AllReduceRates(backend, error=_reason(error))
        return AllReduceRates(backend, whole, best)

    def _all_reduce_rates(self, groups: list[list[_ProbedNode]], backend: str) -> dict[str, float]:
        """Rate of each node, with all groups running their all-reduce in parallel."""
        import ray

        answers = {}
        for group in groups:
            host, port = group[0].address, ray.get(group[0].actor.free_port.remote())
            for rank, member in enumerate(group):
                ask = member.actor.all_reduce.remote
                answers[member.name] = ask(rank, len(group), host, port, backend)
        rates = ray.get(list(answers.values()), timeout=2 * RENDEZVOUS_TIMEOUT_S)
        return dict(zip(answers, rates, strict=True))

    def close(self) -> None:
        """Remove the written files on every node, and end the actors."""
        import ray

        for member in self.responsive:
            try:
                ray.get(member.actor.remove_files.remote(), timeout=ANSWER_S)
            except ray.exceptions.RayError:
                continue
        for actor in self._actors:
            ray.kill(actor)


def neighbours(group: list[Any]) -> list[list[list[Any]]]:
    """Rounds of pairs in which every member is paired once with each neighbour on a ring.

    A slow node is slow in both its pairs; its neighbours are fast in their other pair.
    """
    ring = [[one, other] for one, other in zip(group, [*group[1:], group[0]], strict=True)]
    paired = len(group) // 2 * 2
    rounds = [ring[0:paired:2], ring[1:paired:2], ring[paired:]]
    return [pairs for pairs in rounds if pairs]


def alive_nodes_by_name(nodes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Ray's alive nodes by address, with the port added if several share one."""
    alive = sorted(
        (node for node in nodes if node["Alive"]),
        key=lambda node: (node["NodeManagerAddress"], node["NodeManagerPort"]),
    )
    shared = Counter(node["NodeManagerAddress"] for node in alive)
    return {
        node["NodeManagerAddress"]
        + (f":{node['NodeManagerPort']}" if shared[node["NodeManagerAddress"]] > 1 else ""): node
        for node in alive
    }


def _reason(error: Exception) -> str:
    """One line for an error: its last line says what happened, those before it where."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip()}" if lines else type(cause).__name__
