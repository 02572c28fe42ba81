"""`kind: evaluate` with a probe: fit every arm, write the verdict, tell MLflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.errors import OrchestratorError, RequestError
from orchestrator.evaluation.probes.fit import (
    featureless_baseline,
    fit_arm,
    split_counts,
    split_rows,
)
from orchestrator.evaluation.probes.report import probe_report
from orchestrator.evaluation.result_store import (
    EvaluationResult,
    EvaluationResultLike,
    SavedEvaluation,
    evaluate_once,
)
from orchestrator.features import Features
from orchestrator.features.driver import tracking_uri_for
from orchestrator.features.reader import resolve_features_folder
from orchestrator.features.spec import model_digest
from orchestrator.jepa.model_files import load_folder
from orchestrator.job import EvaluateJob
from orchestrator.job.config.probe import Attentive, ProbeConfig
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.results.probes import record_probe
from orchestrator.tracking.run import RunRef

PROTOCOL_VERSION = 1
"""Raised when the same features and the same job would give other numbers."""


@dataclass(frozen=True)
class ProbeArm:
    """A model's features, and where those are that it is scored on."""

    name: str
    features: str
    test: str | None


def run_probe(
    job: EvaluateJob,
    probe: ProbeConfig,
    progress: Progress,
    *,
    local: bool,
    parent: str | None = None,
) -> SavedEvaluation:
    """Fit the job's probe; the result is in `evaluations/NAME` and on an MLflow run.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: there are no such features or targets, or they are of another model.
        DataError: a file of the features is damaged.
        JobFailed: MLflow did not take the result.
    """

    def measure() -> EvaluationResult:
        verdict = evaluate_probe(job, probe, progress, local=local)
        return EvaluationResult(verdict, {}, probe_report(verdict))

    def record(found: EvaluationResultLike) -> RunRef:
        return record_probe(job, Storage(job.storage), found.summary, found.report_html, parent)

    return evaluate_once(job, measure, record, progress)


def evaluate_probe(
    job: EvaluateJob, probe: ProbeConfig, progress: Progress, *, local: bool
) -> dict[str, Any]:
    """Fit every arm of the job's probe; every number, JSON-serialisable.

    Keys: `protocol` (its hash), `features` (of each arm), `split`, `arms` (model, random, baseline:
    scores of each target, with what was chosen for it), `classes`, `left_out`.
    """
    storage = Storage(job.storage)
    arms = _arms(probe, storage)
    opened = _open(job, arms, storage)
    features, test = opened["model"]
    sides = split_rows(probe, features, test)
    found: dict[str, Any] = {}
    progress.update("probe", 0, len(arms))
    with nullcontext() if local else ray_session():
        work = _fit_in_process(job, probe, arms) if local else _fit_on_ray(job, probe, arms)
        for name, result in work:
            found[name] = result
            progress.update("probe", len(found), len(arms), {"arm": name})
    targets = sides["train"].targets
    return {
        "kind": "probe",
        "target": probe.target,
        "head": probe.head.kind,
        "protocol": protocol_of(probe, features, test),
        "confidence": job.confidence,
        "features": {name: _facts(*pair) for name, pair in opened.items()},
        "split": split_counts(sides),
        "classes": len(targets.classes) or None,
        "left_out": targets.num_excluded_clips,
        "arms": {
            **{arm.name: found[arm.name] for arm in arms},
            "baseline": featureless_baseline(sides, job.confidence),
        },
    }


def protocol_of(probe: ProbeConfig, features: Features, test: Features | None) -> str:
    """16 hex digits: equal where the numbers of two models can be compared."""
    facts = {
        "protocol": PROTOCOL_VERSION,
        "target": probe.target,
        "head": probe.head.model_dump(mode="json"),
        "split": probe.split.model_dump(mode="json"),
        "clips": _protocol_of_clips(features),
        "test": None if test is None else _protocol_of_clips(test),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _protocol_of_clips(features: Features) -> dict[str, Any]:
    """All that decides features, but the model and its shape."""
    of_model = ("model", "dim", "grid", "size", "part_bytes")
    return {key: value for key, value in features.identity.items() if key not in of_model}


def _arms(probe: ProbeConfig, storage: Storage) -> list[ProbeArm]:
    def place(name: str | None) -> str | None:
        return None if name is None else resolve_features_folder(name, storage)

    arms = [
        ProbeArm(
            "model", resolve_features_folder(probe.features, storage), place(probe.test_features)
        )
    ]
    if probe.random_features is not None:
        where = resolve_features_folder(probe.random_features, storage)
        arms.append(ProbeArm("random", where, place(probe.random_test_features)))
    return arms


def _open(
    job: EvaluateJob, arms: list[ProbeArm], storage: Storage
) -> dict[str, tuple[Features, Features | None]]:
    """Every arm's features, after a look at whether they belong together.

    Raises:
        RequestError: they do not.
    """
    wanted = _digest(job, storage) if job.model else None
    features = Features.open(arms[0].features, model=wanted)
    test = arms[0].test and Features.open(arms[0].test, model=features.model_digest)
    opened: dict[str, tuple[Features, Features | None]] = {"model": (features, test or None)}
    if test:
        _require_same_embedding(features, test, "probe.test_features")
    for arm in arms[1:]:
        random = Features.open(arm.features, data=features.data_digests)
        _require_untrained(features, random)
        _require_same_embedding(features, random, "probe.random_features")
        other = None
        if arm.test is not None and test:
            other = Features.open(arm.test, model=random.model_digest, data=test.data_digests)
            _require_same_embedding(features, other, "probe.random_test_features")
        opened[arm.name] = (random, other)
    return opened


def _digest(job: EvaluateJob, storage: Storage) -> str:
    uri = tracking_uri_for(job.track.uri, job.model, storage)
    with model_folder(job.model, tracking_uri=uri) as folder:
        return model_digest(folder, load_folder(folder).config)


def _require_untrained(features: Features, random: Features) -> None:
    facts = random.info["model"]
    if facts["untrained"] is None:
        raise RequestError(
            f"these features are of a trained model: {facts['uri']}",
            where="probe.random_features",
            hint="embed the same data with untrained: 0 under another name",
        )
    if facts["shape"] != features.info["model"]["shape"]:
        raise RequestError(
            "these features are of a model of another shape",
            where="probe.random_features",
            hint="embed with the same model and untrained: 0",
        )


def _require_same_embedding(features: Features, other: Features, where: str) -> None:
    """Features that are compared must be made in the same way."""
    skipped = ("model", "part_bytes")
    mine, theirs = (
        {k: v for k, v in f.identity.items() if k not in skipped and not k.startswith("data.")}
        for f in (features, other)
    )
    apart = [f"{k}: {mine[k]!r} and {theirs.get(k)!r}" for k in mine if mine[k] != theirs.get(k)]
    if apart:
        raise RequestError(
            f"these features were made in another way: {'; '.join(apart)}",
            where=where,
            hint="embed with the same data.frames, data.fps, data.clips, pooling and dtype",
        )


def _fit(arm: ProbeArm, probe: ProbeConfig, confidence: float, device: str) -> dict[str, Any]:
    features = Features.open(arm.features)
    test = Features.open(arm.test) if arm.test else None
    return fit_arm(probe, split_rows(probe, features, test), confidence, device=device)


def _fit_in_process(
    job: EvaluateJob, probe: ProbeConfig, arms: list[ProbeArm]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for arm in arms:
        yield arm.name, _fit(arm, probe, job.confidence, "cpu")


def _fit_on_ray(
    job: EvaluateJob, probe: ProbeConfig, arms: list[ProbeArm]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm as a task; an attentive one has a GPU where the cluster has any."""
    import ray

    there = ray.cluster_resources()
    if job.cpus > there.get("CPU", 0):
        raise RequestError(
            f"a probe asks for {job.cpus:g} CPU cores, the cluster has {there.get('CPU', 0):g}",
            where="cpus",
            hint=f"set cpus={there.get('CPU', 0):g} or less",
        )
    gpus = int(isinstance(probe.head, Attentive) and there.get("GPU", 0) > 0)

    @ray.remote(num_cpus=job.cpus, num_gpus=gpus)  # type: ignore[untyped-decorator]
    def task(arm: ProbeArm) -> dict[str, Any]:
        torch.set_num_threads(max(1, int(job.cpus)))
        return _fit(arm, probe, job.confidence, "cuda" if gpus else "cpu")

    waiting = {task.remote(arm): arm for arm in arms}
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        try:
            yield waiting.pop(ready).name, ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OrchestratorError):
                raise error.cause from None
            raise


def _facts(features: Features, test: Features | None) -> dict[str, Any]:
    """What was read, for the record."""
    facts = {
        "uri": features.folder.root,
        "digest": features.digest,
        "model": features.model_digest,
        "model_uri": features.model_uri,
        "data": features.data_digests,
        "pooling": features.pooling,
        "dtype": features.identity["dtype"],
        "clips": features.num_rows,
    }
    if test is not None:
        facts["test"] = {"uri": test.folder.root, "digest": test.digest, "data": test.data_digests}
    return facts
