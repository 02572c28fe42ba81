"""Which ranks hold the others up, told from their heartbeats."""

from __future__ import annotations

from orchestrator.training.control.coordinator import Heartbeat

EVALUATING = "judging"
"""What the one rank of a local run does between steps; it takes as long as it takes."""

HEARTBEAT_TIMEOUT_S = 15.0
"""A rank that has not been heard for so long is frozen, or its node is gone."""

# A rank in here waits for another.
_COLLECTIVE_PATHS = ("torch/distributed/", "deepspeed/comm/")


def stall_report(
    heartbeats: dict[int, tuple[float, Heartbeat]], stall_after_s: float
) -> str | None:
    """What to tell a person when no rank has moved for `stall_after_s` seconds, else None.

    Args:
        heartbeats: by rank, the seconds since it was heard and what it said.

    A rank that waits inside a collective waits for another: the ranks that do not are to blame.
    """
    if not heartbeats or any(
        age + beat.seconds_in_phase < stall_after_s for age, beat in heartbeats.values()
    ):
        return None
    if any(beat.phase == EVALUATING for _, beat in heartbeats.values()):
        return None
    blamed = {
        rank: (age, beat)
        for rank, (age, beat) in heartbeats.items()
        if age > HEARTBEAT_TIMEOUT_S or (beat.stack and not _is_in_collective(beat))
    }
    seconds = min(age + beat.seconds_in_phase for age, beat in heartbeats.values())
    lines = [f"no rank has moved for {seconds:.0f} s"]
    if not blamed:
        lines.append("every rank waits inside a collective: the network between them is suspect")
    for rank, (age, beat) in sorted((blamed or heartbeats).items()):
        where = f"rank {rank} (pid {beat.pid} on {beat.node})"
        if age > HEARTBEAT_TIMEOUT_S:
            lines.append(f"{where} was last heard {age:.0f} s ago, at step {beat.step}")
        else:
            lines.append(f"{where} has been in '{beat.phase}' of step {beat.step}; it stands in")
            lines.append(beat.stack.rstrip())
    return "\n".join(lines)


def _is_in_collective(beat: Heartbeat) -> bool:
    files = [line for line in beat.stack.splitlines() if line.lstrip().startswith("File ")]
    return bool(files) and any(part in files[-1] for part in _COLLECTIVE_PATHS)
