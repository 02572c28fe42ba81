"""What every batch script does, as text of bash; `sbatch.py` puts a job's values before it."""

from __future__ import annotations

SCRIPT_BODY = r"""
wait_s=600  # for all nodes to join
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0
export SLURM_EXPORT_ENV=ALL PYTHONUNBUFFERED=1
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # the job has ended when Ray is told to go
ray_temp=/tmp/ray-$SLURM_JOB_ID  # sockets lie in it, and their paths must be short
export ray_temp
unset RAY_ADDRESS RAY_AUTH_TOKEN

say() { echo "slurm job $SLURM_JOB_ID: $*"; }

# When it began and ended, and how: for whoever asks after Slurm has forgotten it.
keep() {
  printf '%s\n' "began=$began" "ended=$1" "code=$2" >"$folder/state.new"
  mv "$folder/state.new" "$folder/state"
}

free_ports() {
  python -c 'import socket, sys
probes = [socket.create_server(("", 0)) for _ in range(int(sys.argv[1]))]
print(*[probe.getsockname()[1] for probe in probes])' "$1"
}

# Ray on this node: `ray_here OPTION...`. In a session of its own, so that a signal for the whole
# step does not end it before the job has saved.
ray_here() {
  setsid ray start --block --disable-usage-stats --min-worker-port=0 --max-worker-port=0 \
    --num-cpus="$node_cpus" --num-gpus="$node_gpus" \
    --memory="$node_memory" --object-store-memory="$node_store" "$@" &
  ray=$!
}

# Wait for a process that has to end by itself, whatever signals come.
wait_for() {
  while kill -0 "$1" 2>/dev/null; do wait "$1"; done
  wait "$1"
}

# One more node: `join ADDRESS`, until it is told to go or its Ray ends.
join() {
  trap : TERM
  prepare || exit 1
  ray_here --address="$1" --dashboard-agent-listen-port="$(free_ports 1)"
  trap 'kill -TERM "$ray"' USR2
  wait_for "$ray"
  rm -rf "$ray_temp"
}
export -f prepare free_ports ray_here wait_for join

asked=''  # why it has to end: limit, preempted or stopped
job='' ray='' others='' ender=''

# The job is told once: at a second signal it would end without saving.
ask() {
  if [ -n "$asked" ]; then return; fi
  asked=$1
  say "told to end ($asked)"
  if [ -n "$job" ]; then kill -TERM "$job"; fi
  if [ "$asked" != stopped ]; then
    end_before_slurm_does &
    ender=$!
  fi
}

# Slurm's own end would leave no time to be queued again; the last checkpoint serves.
end_before_slurm_does() {
  trap - USR1
  sleep "$((notice_s - (notice_s < 60 ? notice_s / 4 : 15)))" &
  nap=$!
  trap 'kill "$nap"; exit' TERM
  wait "$nap"
  if [ -n "$job" ]; then kill -KILL "$job" 2>/dev/null; fi
}

# SIGTERM comes before a preemption and from a person.
why() {
  if scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; then
    echo preempted
  else
    echo stopped
  fi
}

take_down() {
  if [ -n "$others" ]; then scancel --signal=USR2 "$SLURM_JOB_ID"; fi
  if [ -n "$ray" ]; then kill -TERM "$ray" 2>/dev/null; fi
  for _ in $(seq 20); do
    if ! kill -0 "$ray" "$others" 2>/dev/null; then break; fi
    sleep 1
  done
  rm -rf "$ray_temp" "$folder/token"
}

# The end, with the job's exit code: or not yet, where there was only no more time.
finish() {
  trap '' TERM USR1
  # Ray's own handler ends a driver so, where SIGTERM comes outside a training's steps.
  if [ -n "$asked" ] && [ "$1" = 15 ]; then set -- 143; fi
  if [ -n "$ender" ]; then kill -TERM "$ender" 2>/dev/null; fi
  take_down 2>/dev/null
  case "$asked:$1" in
    limit:143 | limit:137 | preempted:143 | preempted:137)
      if [ ! -e "$folder/stop" ]; then
        say "queued again ($asked)"
        if scontrol requeue "$SLURM_JOB_ID"; then exit 0; fi
        say "it cannot be queued again; send it again, and it continues"
      fi
      ;;
  esac
  keep "$(date +%s)" "$1"
  exit "$1"
}

fail() {
  say "error: $*" >&2
  tail -n 20 "$folder"/ray-*.log >&2
  finish 1
}

mkdir -p "$folder" || exit 1
began=$(sed -n 's/^began=//p' "$folder/state" 2>/dev/null)
began=${began:-$(date +%s)}
keep '' ''
trap 'ask limit' USR1
trap 'ask "$(why)"' TERM
if [ -e "$folder/stop" ]; then finish 143; fi
say "on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1))"
write_job
prepare || fail "a line of the profile's setup failed"
rm -f "$folder"/ray-*.log "$folder/token"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/token") || fail "no token"

ip=$(python -c 'import ray; print(ray.util.get_node_ip_address())') ||
  fail "Ray cannot be imported by $(command -v python || echo 'python, which is not there'): \
see the profile's setup"
read -r port dashboard client agent <<<"$(free_ports 4)"
export RAY_ADDRESS=$ip:$port
ray_here --head --node-ip-address="$ip" --port="$port" --temp-dir="$ray_temp" \
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
  --ray-client-server-port="$client" --dashboard-agent-listen-port="$agent" \
  >"$folder/ray-head.log" 2>&1
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --relative=1 --nodes="$((SLURM_JOB_NUM_NODES - 1))" \
    --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --ntasks-per-node=1 --cpus-per-task="$node_cpus" \
    --no-kill --kill-on-bad-exit=0 --wait=0 --output="${folder//%/%%}/ray-%N.log" \
    bash -c 'join "$1"' join "$RAY_ADDRESS" </dev/null &
  others=$!
fi

python - "$SLURM_JOB_NUM_NODES" "$wait_s" <<'PYTHON' &
import os
import socket
import sys
import time

import ray

count, until = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
host, _, port = os.environ["RAY_ADDRESS"].rpartition(":")
while True:
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        break
    except OSError as error:
        if time.monotonic() > until:
            sys.exit(f"Ray's head does not answer: {error}")
        time.sleep(0.5)
ray.init(log_to_driver=False, logging_level="ERROR")
while True:
    there = sorted(node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"])
    if len(there) >= count:
        break
    if time.monotonic() > until:
        sys.exit(f"of {count} nodes {len(there)} joined in time: {', '.join(there)}")
    time.sleep(0.5)
PYTHON
waiting=$!
while kill -0 "$waiting" 2>/dev/null; do
  if [ -n "$asked" ]; then
    kill "$waiting"
    finish 143
  fi
  if ! kill -0 "$ray" 2>/dev/null; then fail "Ray's head ended"; fi
  if [ -n "$others" ] && ! kill -0 "$others" 2>/dev/null; then fail "Ray's other nodes ended"; fi
  sleep 0.5
done
wait "$waiting" || fail "no Ray on all $SLURM_JOB_NUM_NODES nodes"
say "Ray is up on $SLURM_JOB_NUM_NODES nodes at $RAY_ADDRESS"

if [ -n "$asked" ]; then finish 143; fi
run_job &
job=$!
if [ -n "$asked" ]; then kill -TERM "$job"; fi  # it came between the two
wait_for "$job"
finish "$?"
""".lstrip()
