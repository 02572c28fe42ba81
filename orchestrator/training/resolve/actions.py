"""`data.actions` completed from the data: how many control steps lie between two frames, and what
actions and states are normalised by."""

from __future__ import annotations

from typing import Any

from orchestrator.data.action_stats import ActionStats, load_or_measure
from orchestrator.data.loader.action_data import control_steps_per_frame
from orchestrator.data.packing.prepare import PreparedData
from orchestrator.data.running_moments import pooled_mean_std
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, STATES_FILE
from orchestrator.errors import RequestError
from orchestrator.job import Actions, ActionStatistics, TrainJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.training.run_record import RunRecord


def resolve_actions(
    job: TrainJob,
    prepared: PreparedData,
    progress: Progress,
    *,
    local: bool,
    existing_record: RunRecord | None = None,
) -> TrainJob:
    """The job with `data.actions.frameskip` and `.statistics` written in, so that they are part of
    its identity and of what is exported; a job without `data.actions` as it is.

    A run that goes on keeps what it began with, without measuring anew. What the job says itself
    is compared with the data in its widths; statistics of its own are used as they are.

    Args:
        existing_record: the record of the run that goes on.

    Raises:
        RequestError: the data has no actions, or not those that the job describes; or the sources
            of a mixture differ in rate or width.
        JobFailed: they could not be measured.
    """
    act = job.data.actions
    if act is None:
        return job
    kept = (
        ((existing_record.job.get("data") or {}).get("actions") or {})
        if existing_record is not None
        else {}
    )
    if kept.get("representation") == act.representation:
        known = {**kept, **act.model_dump(mode="json", exclude_none=True)}
        return _with_actions(job, Actions.model_validate(known))
    datasets = Storage(job.storage).subfolder("datasets")
    measured = [load_or_measure(i, datasets, progress, local=local) for i in prepared.indexes]
    uris = [index.uri for index in prepared.indexes]
    for uri, motions in zip(uris, measured, strict=True):
        _check_actions_exist(act, uri, motions)
        _report_missing(act, uri, motions, progress)
    shares = [
        index.num_clips if weight is None else weight
        for index, weight in zip(prepared.indexes, prepared.weights, strict=True)
    ]
    block = _resolve_block(job, act, measured, uris)
    return _with_actions(
        job,
        act.model_copy(
            update={
                "frameskip": block,
                "statistics": _resolve_statistics(act, measured, uris, shares),
            }
        ),
    )


def _with_actions(job: TrainJob, act: Actions) -> TrainJob:
    return job.model_copy(update={"data": job.data.model_copy(update={"actions": act})})


def _required_array(act: Actions) -> str:
    return ACTIONS_FILE if act.representation == "given" else STATES_FILE


def _check_actions_exist(act: Actions, uri: str, motions: ActionStats) -> None:
    name = _required_array(act)
    if motions.most_common(name) is not None:
        return
    reasons = [reason for reason, _ in motions.reasons.most_common() if reason.startswith(name)]
    bad = [reason for reason in reasons if reason != name]
    raise RequestError(
        f"data.actions asks for what was done in the clips, and none can be read: {bad[0]}"
        if bad
        else f"data.actions asks for what was done in the clips, and there is no KEY.{name} beside"
        " their videos",
        where=uri,
        hint="leave data.actions out, or name data with actions; with actions: change, states are"
        " enough",
    )


def _report_missing(act: Actions, uri: str, motions: ActionStats, progress: Progress) -> None:
    found = motions.most_common(_required_array(act))
    assert found is not None
    lost = motions.clips - min(found[0], motions.rates[motions.most_common_fps])
    if lost:
        progress.message(
            f"{lost} of {motions.clips} clips of {uri} have no actions like the others', or"
            " another rate; where one of them is drawn it counts as a failed clip"
        )


def _resolve_block(
    job: TrainJob, act: Actions, measured: list[ActionStats], uris: list[str]
) -> int:
    rates = [motions.most_common_fps for motions in measured]
    blocks = [control_steps_per_frame(rate, job.data.fps) for rate in rates]
    for rate, block, uri in zip(rates, blocks, uris, strict=True):
        if block is None:
            raise RequestError(
                f"the video has {rate:.6g} frames a second, no whole multiple of {job.data.fps:g}:"
                " no whole number of actions leads from one frame to the next",
                where="data.fps",
                hint=f"set data.fps to {', '.join(f'{rate / k:.6g}' for k in (1, 2, 3))} or the"
                f" like ({uri})",
            )
    if len(set(blocks)) > 1:
        raise RequestError(
            f"the sources have {' and '.join(f'{rate:.6g}' for rate in rates)} frames a second,"
            " so that other numbers of actions lead from one frame to the next",
            where="data.sources",
            hint="mix sources of one rate",
        )
    block = blocks[0]
    assert block is not None
    if act.frameskip not in (None, block):
        raise RequestError(
            f"{block} control steps lead from one frame to the next, the job says {act.frameskip}",
            where="data.actions.block",
            hint=f"leave it out, or set data.fps={rates[0] / (act.frameskip or 1):.6g}",
        )
    return block


def _resolve_statistics(
    act: Actions, measured: list[ActionStats], uris: list[str], shares: list[float]
) -> ActionStatistics:
    """Of each source as it is drawn: a share of the positions, not of the rows."""
    found: dict[str, Any] = {}
    for name, key in ((ACTIONS_FILE, "action"), (STATES_FILE, "state")):
        spreads = [one[1] if (one := m.most_common(name)) else None for m in measured]
        widths = [0 if spread is None else len(spread.mean) for spread in spreads]
        if name == ACTIONS_FILE and act.representation == "change":
            continue
        if len(set(widths)) > 1:
            which = ", ".join(f"{width} in {uri}" for width, uri in zip(widths, uris, strict=True))
            raise RequestError(
                f"the sources differ in the numbers of a row of {name}: {which}",
                where="data.sources",
                hint="mix sources of one kind",
            )
        there = [spread for spread in spreads if spread is not None]
        if there:
            found[f"{key}_mean"], found[f"{key}_std"] = pooled_mean_std(there, shares)
    known = ActionStatistics.model_validate(found)
    if act.statistics is None:
        return known
    _check_widths(act.statistics, known)
    return act.statistics


def _check_widths(given: ActionStatistics, known: ActionStatistics) -> None:
    for key in ("action_mean", "state_mean"):
        said, there = len(getattr(given, key)), len(getattr(known, key))
        # States may be left unread.
        if said != there and not (key == "state_mean" and said == 0):
            raise RequestError(
                f"{said} numbers are given, a row of the data has {there}",
                where=f"data.actions.statistics.{key}",
                hint="leave data.actions.statistics out, to have them measured",
            )
