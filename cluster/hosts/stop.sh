#!/usr/bin/env bash
# Stop what start.sh started: workers first, then the scheduler; the certificate goes, the logs stay.
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
own="$HOME/.local/state/daskgmm-hosts"

case "${1-}" in
    -h | --help) echo "usage: stop.sh [--folder FOLDER]   (default: $own; SSH is that of start.sh)"; exit 0 ;;
    --folder) own="${2:?stop.sh: --folder must be followed by a folder}" ;;
    '') ;;
    *) echo "stop.sh: unknown argument '$1'. usage: stop.sh [--folder FOLDER]" >&2; exit 64 ;;
esac
if [[ ! -d "$own/running" ]]; then
    echo "nothing is running in $own"
    exit 0
fi
read -ra ssh <<<"${SSH-ssh -o BatchMode=yes -o ConnectTimeout=10}"
folder=""
if [[ -e "$own/running/folder" ]]; then folder="$(<"$own/running/folder")"; fi

end() { # what: its file in running, HOST.NAME
    local host="${1%.*}" name="${1##*.}"
    if { cat "$here/on-host.sh"; printf '%q ' end "$folder/$host" "$name"; } | "${ssh[@]}" "$host" bash -s; then
        rm -f "$own/running/$1"
    else
        echo "stop.sh: the $name on $host may still run" >&2
    fi
}

for name in worker scheduler; do # workers in parallel; the scheduler last, so that they can still say goodbye
    for file in "$own/running/"*".$name"; do
        if [[ -e "$file" ]]; then end "${file##*/}" & fi
    done
    wait
done
if compgen -G "$own/running/*.worker" >/dev/null || compgen -G "$own/running/*.scheduler" >/dev/null; then
    echo "stop.sh: not all hosts could be reached. Call it again when they can be: stop.sh --folder '$own'
Of a host that is gone for good, delete the files in $own/running first." >&2
    exit 69
fi
rm -rf "$own/running" "$own/cluster.toml" "$own/cert.pem" "$own/key.pem"
echo "stopped; the logs stay in $own, in a folder for each host, on that host"
