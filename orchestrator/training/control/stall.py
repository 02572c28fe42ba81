"""Which ranks hold the others up, told from their pulses."""

from __future__ import annotations

from orchestrator.training.control.coordinator import Beat

JUDGING = "judging"
"""What the one rank of a local run does between steps; it takes as long as it takes."""

SILENT_S = 15.0
"""A rank that has not been heard for so long is frozen, or its node is gone."""

# A rank in here waits for another.
_WAITS = ("torch/distributed/", "deepspeed/comm/")


def stall_report(beats: dict[int, tuple[float, Beat]], slow_s: float) -> str | None:
    """What to tell a person when no rank has moved for `slow_s` seconds, else None.

    Args:
        beats: by rank, the seconds since it was heard and what it said.

    A rank that waits inside a collective waits for another: the ranks that do not are to blame.
    """
    if not beats or any(age + beat.since_s < slow_s for age, beat in beats.values()):
        return None
    if any(beat.doing == JUDGING for _, beat in beats.values()):
        return None
    blamed = {
        rank: (age, beat)
        for rank, (age, beat) in beats.items()
        if age > SILENT_S or (beat.stack and not _waits(beat))
    }
    seconds = min(age + beat.since_s for age, beat in beats.values())
    lines = [f"no rank has moved for {seconds:.0f} s"]
    if not blamed:
        lines.append("every rank waits inside a collective: the network between them is suspect")
    for rank, (age, beat) in sorted((blamed or beats).items()):
        where = f"rank {rank} (pid {beat.pid} on {beat.node})"
        if age > SILENT_S:
            lines.append(f"{where} was last heard {age:.0f} s ago, at step {beat.step}")
        else:
            lines.append(f"{where} has been in '{beat.doing}' of step {beat.step}; it stands in")
            lines.append(beat.stack.rstrip())
    return "\n".join(lines)


def _waits(beat: Beat) -> bool:
    files = [line for line in beat.stack.splitlines() if line.lstrip().startswith("File ")]
    return bool(files) and any(part in files[-1] for part in _WAITS)
