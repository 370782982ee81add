#!/usr/bin/env bash
# Start a Dask scheduler and workers on the hosts of a list, by ssh, with TLS.
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
usage() {
    cat <<USAGE
usage: start.sh [--hosts FILE] [--memory-limit SIZE] [--address ADDRESS] [--port PORT] [--bin FOLDER] [--folder FOLDER]

  --hosts FILE         a line for each host, its name and its workers (default: $here/hosts.conf)
  --memory-limit SIZE  memory of each worker (default: 2GiB)
  --address ADDRESS    of the first host, at which this machine and all hosts reach it (default: what its name means here)
  --port PORT          the scheduler's port (default: 8786)
  --bin FOLDER         where the hosts have dask and python3 (default: where this machine has them)
  --folder FOLDER      where files go, here and on the hosts (default: ~/.local/state/daskgmm-hosts)

The variable SSH is what comes before the name of a host (default: ssh -o BatchMode=yes -o ConnectTimeout=10).
USAGE
}

fail() { # message, exit code
    echo "start.sh: $1" >&2
    exit "$2"
}

hosts="$here/hosts.conf"
memory_limit=2GiB
address="" bin=""
port=8786
folder=.local/state/daskgmm-hosts # from the home folder, which may be another one on the hosts

while (($#)); do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --hosts | --memory-limit | --address | --port | --bin | --folder)
            (($# >= 2)) || fail "$1 must be followed by a value; see start.sh --help" 64
            name="${1#--}"
            printf -v "${name//-/_}" '%s' "$2"
            shift 2
            ;;
        *) usage >&2; fail "unknown argument '$1'" 64 ;;
    esac
done
[[ "$port" =~ ^[1-9][0-9]*$ ]] || fail "--port must be a whole number of at least 1; got '$port'" 64
case "$folder" in
    /*) own="$folder" ;;
    .local/*) own="$HOME/$folder" ;;
    *) fail "--folder must begin with /, as it is for all hosts; got '$folder'" 64 ;;
esac
[[ -r "$hosts" ]] || fail "--hosts must be a file that can be read; got '$hosts'" 66

names=() workers=() total=0
while read -r name n rest; do
    [[ -n "$name" && "$name" != '#'* ]] || continue
    [[ "$n" =~ ^[0-9]+$ && -z "$rest" && "$name" != *[/\ ]* && "$name" != -* ]] ||
        fail "each line of $hosts must be a host and its number of workers; got '$name $n $rest'" 65
    [[ " ${names[*]-} " != *" $name "* ]] || fail "each host must have one line in $hosts; $name has two" 65
    names+=("$name") workers+=("$n") total=$((total + n))
done <"$hosts"
((total)) || fail "$hosts must have a worker at least; it has none" 65

if [[ -z "$address" ]]; then
    address="$(getent ahostsv4 "${names[0]##*@}" | awk '{print $1; exit}')" || true
    [[ -n "$address" && "$address" != 127.* ]] ||
        fail "${names[0]} is ${address:-no name of a machine} here. Say by --address where the hosts reach it" 64
fi
if [[ -z "$bin" ]]; then
    bin="$(dirname "$(type -P dask)")" || fail "no 'dask' on the PATH. Activate the environment of daskgmm" 69
fi
type -P daskgmm openssl >/dev/null || fail "no 'daskgmm' or no 'openssl' on the PATH. Activate the environment of daskgmm" 69

read -ra ssh <<<"${SSH-ssh -o BatchMode=yes -o ConnectTimeout=10}"
on() { # host, function of on-host.sh, its arguments...
    local host="$1"
    shift
    { cat "$here/on-host.sh"; printf '%q ' "$@"; } | "${ssh[@]}" "$host" bash -s
}
all_of() { # processes in the background...
    local process bad=0
    for process; do wait "$process" || bad=1; done
    return "$bad"
}

started=()
for name in "${names[@]}"; do
    on "$name" check "$bin" || fail "$name cannot be used, so nothing was started" 69 &
    started+=($!)
done
all_of "${started[@]}" || exit 69

mkdir -p "$own"
# Creating a directory either succeeds or fails, so that of two starts at once only one goes on.
mkdir "$own/running" 2>/dev/null || fail "a cluster was started in $own already. Stop it first: stop.sh --folder '$own'" 73

stop_what_was_started() {
    echo "start.sh: could not start; the logs are in $own, in a folder for each host, on that host" >&2
    "$here/stop.sh" --folder "$own" >&2 || true
}
trap stop_what_was_started EXIT
printf '%s\n' "$folder" >"$own/running/folder"
"$here/certificate.sh" "$own"

begin() { # host, name, what follows `dask`...
    local host="$1" name="$2" code=0
    shift 2
    : >"$own/running/$host.$name" # before it is there, so that no end of this script leaves it
    on "$host" begin "$folder/$host" "$name" "$bin" "$(<"$own/cert.pem")" "$(<"$own/key.pem")" "$@" || code=$?
    ((code)) || return 0
    if ((code != 255)); then rm "$own/running/$host.$name"; fi # (255: ssh has lost the host)
    fail "$host: the $name cannot be started" 69
}

begin "${names[0]}" scheduler scheduler --host "tls://$address" --port "$port" --dashboard-address 127.0.0.1:8787
# One thread a process: it is as fast as the core, and Dask's nanny gives it one BLAS thread.
started=()
for i in "${!names[@]}"; do
    if ((workers[i])); then
        begin "${names[i]}" worker worker "tls://$address:$port" --name "${names[i]}" --nworkers "${workers[i]}" \
            --nthreads 1 --memory-limit "$memory_limit" --no-dashboard --dashboard-address 127.0.0.1:0 \
            --death-timeout 60 &
        started+=($!)
    fi
done
all_of "${started[@]}" || exit 69

cat >"$own/cluster.toml" <<TOML
scheduler = "tls://$address:$port"
tls_ca_file = "$own/cert.pem"
tls_cert = "$own/cert.pem"
tls_key = "$own/key.pem"
TOML
"$(dirname "$(type -P daskgmm)")/python3" -P - "tls://$address:$port" "$own" "$total" <<'PYTHON' || exit 69
import logging, sys
from distributed import Client
from distributed.security import Security

logging.disable()  # what it says of a scheduler that does not answer is said below
address, folder, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
files = {"tls_ca_file": f"{folder}/cert.pem", "tls_client_cert": f"{folder}/cert.pem", "tls_client_key": f"{folder}/key.pem"}
try:
    client = Client(address, timeout=60, security=Security(require_encryption=True, **files))
except OSError:
    sys.exit(f"start.sh: the scheduler must answer at {address} within 60 seconds; it does not")
with client:
    try:
        client.wait_for_workers(n, timeout=60)
    except TimeoutError:
        sys.exit(f"start.sh: {n} workers must join within 60 seconds; {len(client.nthreads())} did")
PYTHON

trap - EXIT
echo "scheduler tls://$address:$port with $total workers of one thread on ${#names[@]} hosts"
echo "run: daskgmm fit --config '$own/cluster.toml' INPUT --components 8 --output MODEL"
