"""A Slurm of two nodes on this machine, of Debian's packages; all of it ends with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INSTALL = "apt-get install slurm-wlm munge"
_COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
_UP_S = 180.0


@dataclass(frozen=True)
class LocalSlurm:
    """What runs, and the variable by which Slurm's commands find it."""

    conf: Path
    daemons: dict[str, int]
    """Process ids by name."""


@contextmanager
def local_slurm(folder: Path) -> Iterator[LocalSlurm]:
    """munged, slurmctld and two slurmd, with SLURM_CONF set; they are stopped at the end.

    Raises:
        RuntimeError: Slurm is not installed, or does not come up.
    """
    missing = [command for command in _COMMANDS if _found(command) is None]
    if missing:
        raise RuntimeError(f"no {', '.join(missing)} on this machine: {INSTALL}")
    conf = _configure(folder)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    daemons: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in _daemons(folder).items():
            daemons[name] = _start(name, command, folder)
        _wait_until_idle(folder)
        yield LocalSlurm(conf, {name: one.pid for name, one in daemons.items()})
    finally:
        for one in reversed(daemons.values()):
            _end(one)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _daemons(folder: Path) -> dict[str, list[str]]:
    munge, conf = folder / "munge", str(folder / "slurm.conf")
    return {
        "munged": [
            "munged",
            "--foreground",
            "--force",
            *(f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")),
            f"--socket={munge / 'socket'}",
        ],
        "slurmctld": ["slurmctld", "-D", "-f", conf],
        "n1": ["slurmd", "-D", "-N", "n1", "-f", conf],
        "n2": ["slurmd", "-D", "-N", "n2", "-f", conf],
    }


def _configure(folder: Path) -> Path:
    for name in ("munge", "state", "spool-n1", "spool-n2", "logs"):
        (folder / name).mkdir(parents=True)
    # munged looks at every folder above its files.
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(bytes(range(256)) * 4)
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    control, first, second = _open_ports(3)
    node = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=3000 State=UNKNOWN"
    conf = folder / "slurm.conf"
    conf.write_text(
        f"""\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/logs/slurmctld.log
SlurmdLogFile={folder}/logs/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
KillWait=10
NodeName=n1 Port={first} {node}
NodeName=n2 Port={second} {node}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
    )
    return conf


def _start(name: str, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    path = _found(command[0])
    assert path is not None
    with (folder / "logs" / f"{name}.out").open("wb") as out:
        one = subprocess.Popen([path, *command[1:]], stdout=out, stderr=out)
    if name == "munged":  # the others need it at once
        until = time.monotonic() + _UP_S
        while not (folder / "munge" / "socket").exists():
            if one.poll() is not None or time.monotonic() > until:
                _end(one)
                raise RuntimeError(f"munged: {(folder / 'logs' / 'munged.out').read_text()}")
            time.sleep(0.1)
    return one


def _wait_until_idle(folder: Path) -> None:
    until = time.monotonic() + _UP_S
    said = ""
    while time.monotonic() < until:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%t %D"], capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        if done.stdout.split() == ["idle", "2"]:
            return
        time.sleep(0.5)
    logs = "\n".join(file.read_text()[-1000:] for file in sorted((folder / "logs").iterdir()))
    raise RuntimeError(f"Slurm's nodes are not idle after {_UP_S:.0f} s: {said}\n{logs}")


def _end(one: subprocess.Popen[bytes]) -> None:
    one.send_signal(signal.SIGTERM)
    try:
        one.wait(120)
    except subprocess.TimeoutExpired:
        one.kill()
        one.wait()


def _found(command: str) -> str | None:
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/sbin")


def _open_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def profile_setup_lines() -> list[str]:
    """What a profile needs so that this checkout and this Python run on its nodes."""
    return [
        f"export PATH={Path(sys.executable).parent}:$PATH",
        f"export PYTHONPATH={Path(__file__).parents[2]}",
    ]
