#!/usr/bin/env bash
# Start a Dask scheduler and some workers as separate processes on this machine.
set -euo pipefail

usage() {
    cat <<USAGE
usage: start.sh [--workers N] [--memory-limit SIZE] [--host ADDRESS] [--port PORT] [--folder FOLDER]

  --workers N          worker processes of one thread each (default: one a core)
  --memory-limit SIZE  memory of each worker, such as 2GiB (default: an equal share of the machine's)
  --host ADDRESS       address to listen on (default: 127.0.0.1, so that only this machine can connect)
  --port PORT          the scheduler's port (default: 8786; 0 takes a free one)
  --folder FOLDER      where process ids, logs and the scheduler file go (default: $folder)

Anyone who can reach the scheduler can run code as you: Dask asks for no password.
USAGE
}

fail() { # message, exit code
    echo "start.sh: $1" >&2
    exit "$2"
}

folder="${XDG_STATE_HOME:-$HOME/.local/state}/daskgmm-by-hand"
workers="$(getconf _NPROCESSORS_ONLN)"
memory_limit=auto
host=127.0.0.1
port=8786

while (($#)); do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --workers | --memory-limit | --host | --port | --folder)
            (($# >= 2)) || fail "$1 must be followed by a value; see start.sh --help" 64
            name="${1#--}"
            printf -v "${name//-/_}" '%s' "$2"
            shift 2
            ;;
        *) usage >&2; fail "unknown argument '$1'" 64 ;;
    esac
done
[[ "$workers" =~ ^[1-9][0-9]*$ ]] || fail "--workers must be a whole number of at least 1; got '$workers'" 64
[[ "$port" =~ ^[0-9]+$ ]] || fail "--port must be a whole number; got '$port'" 64

type -P dask >/dev/null || fail "no 'dask' on the PATH. Activate the environment daskgmm is installed in" 69
python3 -P -c 'import distributed, daskgmm' || fail "python3 on the PATH cannot import daskgmm. Activate its environment" 69

mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
# Creating a directory either succeeds or fails, so that of two starts at once only one goes on.
mkdir "$folder/running" 2>/dev/null ||
    fail "a cluster was started in $folder already. Stop it first: stop.sh --folder '$folder'" 73

stop_what_was_started() {
    echo "start.sh: could not start; the logs are in $folder" >&2
    "$(dirname "${BASH_SOURCE[0]}")/stop.sh" --folder "$folder" >&2
}
trap stop_what_was_started EXIT

scheduler_file="$folder/scheduler.json"
rm -f "$folder"/*.log "$scheduler_file"

launch() { # name, command...
    local name="$1"
    shift
    nohup "$@" >"$folder/$name.log" 2>&1 </dev/null &
    echo "$!" >"$folder/running/$name.pid"
}

# One thread a process: it is as fast as the core, and Dask's nanny gives it one BLAS thread.
launch scheduler dask scheduler --host "$host" --port "$port" \
    --dashboard-address "$host:8787" --scheduler-file "$scheduler_file"
for ((i = 0; i < workers; i++)); do
    launch "worker-$i" dask worker --scheduler-file "$scheduler_file" --host "$host" --name "by-hand-$i" \
        --nworkers 1 --nthreads 1 --memory-limit "$memory_limit" --dashboard-address "$host:0" --death-timeout 60
done

python3 -P - "$scheduler_file" "$workers" <<'PYTHON' &
import asyncio, pathlib, sys, time
from distributed import Client

path, n_workers, deadline = pathlib.Path(sys.argv[1]), int(sys.argv[2]), time.monotonic() + 60


async def wait():
    while not (path.exists() and path.read_text().endswith("}")):
        if time.monotonic() > deadline:
            sys.exit("start.sh: the scheduler must come up within 60 seconds; see scheduler.log")
        await asyncio.sleep(0.1)
    async with Client(scheduler_file=str(path), asynchronous=True) as client:
        try:
            await client.wait_for_workers(n_workers, timeout=max(1, deadline - time.monotonic()))
        except TimeoutError:
            found = len(client.scheduler_info(n_workers=-1)["workers"])
            sys.exit(f"start.sh: {n_workers} workers must join within 60 seconds; {found} did. See worker-*.log")
        print(f"scheduler {client.scheduler.address} with {n_workers} workers of one thread")


asyncio.run(wait())
PYTHON
waiting=$!

wait -n || true  # for whatever ends first: that should be the waiting
if kill -0 "$waiting" 2>/dev/null; then
    kill "$waiting"
    fail "the scheduler or a worker ended at once; its log says why" 69
fi
wait "$waiting" || exit 69

trap - EXIT
echo "logs and scheduler.json in $folder"
