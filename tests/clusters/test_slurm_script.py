"""The batch script: what it asks Slurm for, what it does when signals come, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster_profile.schema import Slurm
from orchestrator.clusters.render.sbatch import job_script, submitted_script
from orchestrator.errors import RequestError
from orchestrator.job import build_job, load_job
from tests.support.waiting import TIMEOUT_S

ROOT = Path(__file__).parents[2]
NODE: dict[str, Any] = {"cpus": 16, "gpus": 8, "gpu": "h100", "memory": "64GiB"}
PROFILE: dict[str, Any] = {
    "name": "big",
    "nodes": {"head": NODE, "more": {**NODE, "min": 1, "max": 3}},
    "workdir": "/shared/it's here",
    "partition": "gpu",
    "account": "lab",
    "options": ["--qos=high"],
    "setup": [". /shared/venv/bin/activate", "module load cuda"],
    "env": {"NCCL_SOCKET_IFNAME": "ib0", "SAID": 'it\'s $HOME `date` "x"'},
    "storage": "/shared/storage",
    "mlflow": "http://mlflow:5000",
}


def profile(**changes: Any) -> Slurm:
    return Slurm.model_validate({**PROFILE, **changes})


def script(**changes: Any) -> str:
    command = ("python", "-m", "orchestrator", "run", ".orchestrator-job.yaml")
    slurm = profile(**changes)
    return submitted_script(slurm, "small", command, slurm.env, "orchestrator submit")


def options(text: str) -> list[str]:
    return [line[8:] for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_it_asks_for_what_the_profile_says() -> None:
    assert options(script()) == [
        "--job-name=small",
        "--output=small-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@300",
        "--time=24:00:00",
        "--nodes=2-4",
        "--cpus-per-task=16",
        "--mem=65536M",
        "--gpus-per-node=h100:8",
        "--partition=gpu",
        "--account=lab",
        "--qos=high",
    ]
    plain = {"cpus": 4, "memory": "8GiB"}
    alone = script(nodes={"head": plain}, partition=None, account=None, options=[])
    assert "--nodes=1" in options(alone)
    assert "gpus-per-node" not in alone


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes": {"head": NODE, "more": {**NODE, "gpus": 4}}}, "nodes of one allocation"),
        ({"time": "5", "notice_s": 300}, "not below the time limit"),
        ({"time": "0:30", "notice_s": 30}, "not below the time limit"),
        ({"partition": "gpu\n#SBATCH --uid=0"}, "cannot stand there"),
        ({"options": ["qos=high"]}, "cannot stand there"),
        ({"env": {"A;B": "x"}}, "cannot stand there"),
    ],
)
def test_what_no_allocation_can_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        script(**changes)


@pytest.mark.parametrize("time", ["6", "5:01", "0:05:01", "0-1", "0-0:06", "1-00:00:00"])
def test_every_way_to_write_a_time_is_read_as_slurm_does(time: str) -> None:
    assert f"--time={time}" in options(script(time=time, notice_s=300))


@pytest.mark.parametrize("by_hand", [False, True])
def test_shellcheck_finds_nothing(by_hand: bool, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine")
    job = load_job(str(ROOT / "jobs" / "physics" / "quick.yaml"), [])
    text = job_script(profile(), job, "orchestrator cluster render big") if by_hand else script()
    file = tmp_path / "job.sbatch"
    file.write_text(text)
    done = subprocess.run(["shellcheck", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_script_for_one_s_own_hands_carries_the_job() -> None:
    job = load_job(str(ROOT / "jobs" / "physics" / "quick.yaml"), ["name=mine"])
    text = job_script(profile(), job, "orchestrator cluster render big jobs/physics/quick.yaml")
    carried = text.split("<<'ORCHESTRATOR_JOB'")[1].split("\n", 1)[1].split("ORCHESTRATOR_JOB")[0]
    found = build_job(yaml.safe_load(carried), source="script")
    assert (found.name, found.storage) == ("mine", "/shared/storage")
    assert "export MLFLOW_TRACKING_URI=http://mlflow:5000" in text
    assert "# Rendered by: orchestrator cluster render big jobs/physics/quick.yaml\n" in text


# ---- The script itself, with stand-ins for Slurm and Ray: signals, exit codes and the state.

_STANDINS = {
    "scontrol": 'echo "scontrol $*" >>"$CALLS"\nif [ "$1" = show ]; then echo "$SHOWN"; fi',
    "scancel": 'echo "scancel $*" >>"$CALLS"; kill "$(cat "$CALLS.srun")"',
    "setsid": 'if [ "$1" = ray ]; then echo "$@" >>"$CALLS"; exec sleep 60; fi; exec "$@"',
    "srun": 'echo "srun $*" >>"$CALLS"; echo $$ >"$CALLS.srun"; exec sleep 60',
    "python": 'if [ "$1" = - ]; then exit "${JOINED:-0}"; fi\n'
    "case $2 in *get_node_ip*) echo 10.0.0.1;; *) echo 1 2 3 4;; esac",
}


class Trial:
    """The script under way in a folder with stand-ins."""

    def __init__(self, folder: Path, job: str, **env: str) -> None:
        self.folder = folder / "it's 100% here"
        self.calls = folder / "calls"
        (folder / "bin").mkdir(exist_ok=True)
        for name, text in _STANDINS.items():
            file = folder / "bin" / name
            file.write_text(f"#!/bin/bash\n{text}\n")
            file.chmod(0o755)
        slurm = profile(setup=['echo "prepared $SAID"'], notice_s=env.pop("notice_s", 300))
        text = submitted_script(
            slurm, "small", ("bash", "-c", job), slurm.env, "orchestrator submit"
        )
        (folder / "job.sbatch").write_text(text)
        given = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        given |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
        self.process = subprocess.Popen(
            ["bash", str(folder / "job.sbatch"), str(self.folder)],
            env=os.environ | {"RAY_AUTH_TOKEN": "of-another-cluster", "HOME": "/h"} | given | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begun(self, file: str) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not (self.folder / file).exists():
            assert time.monotonic() < until, self.end()
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, said

    @property
    def state(self) -> dict[str, str]:
        lines = (self.folder / "state").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def requeued(self) -> bool:
        return "scontrol requeue 7" in self.calls.read_text()


# A job that takes its time to save, and ends at once where it is told a second time.
_SAVES = (
    "trap 'echo saving; trap \"exit 9\" TERM; sleep 1; exit 143' TERM;"
    ' touch "$(dirname "$RAY_AUTH_TOKEN_PATH")/began"; while :; do sleep 0.1; done'
)


def test_the_job_s_end_is_the_script_s(tmp_path: Path) -> None:
    told = 'stat -c %a "$RAY_AUTH_TOKEN_PATH"; cat "$RAY_AUTH_TOKEN_PATH"; '
    told += 'echo; echo "token=${RAY_AUTH_TOKEN-none} $RAY_AUTH_MODE $RAY_ADDRESS"; exit 3'
    trial = Trial(tmp_path, told)
    code, said = trial.end()
    assert code == 3, said
    lines = said.splitlines()
    assert 'prepared it\'s $HOME `date` "x"' in lines
    assert "token=none token 10.0.0.1:1" in lines
    mode = lines.index("600")
    assert len(lines[mode + 1]) == 64
    assert trial.state["code"] == "3"
    assert float(trial.state["ended"]) >= float(trial.state["began"]) > 0
    assert not (trial.folder / "token").exists()
    assert not trial.requeued
    # The token stands on no command line.
    assert lines[mode + 1] not in trial.calls.read_text()
    assert stat.S_ISDIR(trial.folder.stat().st_mode)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "shown", "again"),
    [
        (signal.SIGUSR1, "", True),
        (signal.SIGTERM, "PreemptTime=2026-01-01T00:00:00", True),
        (signal.SIGTERM, "PreemptTime=None", False),
    ],
)
def test_it_saves_once_and_is_queued_again_after_limit_and_preemption_only(
    number: signal.Signals, shown: str, again: bool, tmp_path: Path
) -> None:
    trial = Trial(tmp_path, _SAVES, SHOWN=shown)
    trial.begun("began")
    trial.process.send_signal(number)
    time.sleep(0.3)
    trial.process.send_signal(signal.SIGTERM)  # Slurm's own, which may follow
    code, said = trial.end()
    assert said.count("saving") == 1
    assert trial.requeued == again, said
    assert code == (0 if again else 143)
    assert trial.state["code"] == ("" if again else "143")


@pytest.mark.integration
def test_a_stop_that_was_asked_for_meanwhile_wins(tmp_path: Path) -> None:
    trial = Trial(tmp_path, _SAVES)
    trial.begun("began")
    (trial.folder / "stop").touch()
    trial.process.send_signal(signal.SIGUSR1)
    assert trial.end()[0] == 143
    assert not trial.requeued
    assert Trial(tmp_path, _SAVES).end()[0] == 143  # and it does not begin again


@pytest.mark.integration
def test_a_job_that_ends_in_spite_of_a_signal_or_fails_is_not_queued_again(tmp_path: Path) -> None:
    for code in (0, 1):
        folder = tmp_path / str(code)
        folder.mkdir()
        trial = Trial(folder, _SAVES.replace("exit 143", f"exit {code}"))
        trial.begun("began")
        trial.process.send_signal(signal.SIGUSR1)
        assert trial.end()[0] == code
        assert not trial.requeued


@pytest.mark.integration
def test_a_driver_that_rays_own_handler_ends_counts_as_stopped(tmp_path: Path) -> None:
    """While a job packs, SIGTERM ends it with 15: `sys.exit(15)` of Ray."""
    for number, again in ((signal.SIGUSR1, True), (signal.SIGTERM, False)):
        folder = tmp_path / number.name
        folder.mkdir()
        trial = Trial(folder, _SAVES.replace("exit 143", "exit 15"), SHOWN="PreemptTime=None")
        trial.begun("began")
        trial.process.send_signal(number)
        trial.end()
        assert trial.requeued == again
        assert trial.state["code"] == ("" if again else "143")


@pytest.mark.integration
def test_a_job_that_cannot_save_in_time_is_queued_again_before_slurm_ends_it(
    tmp_path: Path,
) -> None:
    deaf = _SAVES.replace("sleep 1; exit 143", "while :; do sleep 0.1; done")
    trial = Trial(tmp_path, deaf, notice_s="4")
    trial.begun("began")
    trial.process.send_signal(signal.SIGUSR1)
    assert trial.end()[0] == 0
    assert trial.requeued


def test_nodes_that_do_not_join_and_setup_that_fails_end_it_with_a_reason(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "exit 0", JOINED="1")
    code, said = trial.end()
    assert (code, trial.state["code"]) == (1, "1")
    assert "error: no Ray on all 2 nodes" in said
