#!/usr/bin/env bash
# Stop what start.sh started, workers first, and leave nothing behind but the logs.
set -euo pipefail

folder="${XDG_STATE_HOME:-$HOME/.local/state}/daskgmm-by-hand"

case "${1-}" in
    -h | --help) echo "usage: stop.sh [--folder FOLDER]   (default: $folder)"; exit 0 ;;
    --folder) folder="${2:?stop.sh: --folder must be followed by a folder}" ;;
    '') ;;
    *) echo "stop.sh: unknown argument '$1'. usage: stop.sh [--folder FOLDER]" >&2; exit 64 ;;
esac

if [[ ! -d "$folder/running" ]]; then
    echo "nothing is running in $folder"
    exit 0
fi
folder="$(cd "$folder" && pwd)"  # as start.sh wrote it

ours() { # pid: still the process that start.sh started, and not another one that got its number since
    [[ "$(ps -ww -o args= -p "$1" 2>/dev/null)" == *dask*"$folder/scheduler.json"* ]]
}

stop() { # pid file
    local pid
    pid="$(cat "$1")"
    if [[ -n "$pid" ]] && ours "$pid"; then
        kill -TERM "$pid" 2>/dev/null || true
        for _ in {1..150}; do # 15 seconds
            ours "$pid" || break
            sleep 0.1
        done
        # A worker process notices within a second that its nanny is gone, and ends too.
        if ours "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
    fi
    rm -f "$1"
}

# Workers in parallel; the scheduler last, so that they can still say goodbye.
for file in "$folder"/running/worker-*.pid; do
    if [[ -e "$file" ]]; then stop "$file" & fi
done
wait
if [[ -e "$folder/running/scheduler.pid" ]]; then stop "$folder/running/scheduler.pid"; fi

rm -f "$folder/scheduler.json"
rmdir "$folder/running"
echo "stopped; the logs stay in $folder"
