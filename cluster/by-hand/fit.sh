#!/usr/bin/env bash
# Fit a mixture on the cluster that start.sh started.
set -euo pipefail

folder="${XDG_STATE_HOME:-$HOME/.local/state}/daskgmm-by-hand"

usage() {
    cat <<USAGE
usage: fit.sh [--folder FOLDER | --scheduler ADDRESS] INPUT COMPONENTS MODEL [OPTIONS OF daskgmm fit]

  INPUT       the data: a path or URL that every worker can read
  COMPONENTS  number of Gaussians
  MODEL       where the fitted model is written, such as model.zarr

  --folder FOLDER      the folder that start.sh was given (default: $folder)
  --scheduler ADDRESS  a scheduler elsewhere, such as tcp://10.0.0.5:8786
USAGE
}

cluster=()
case "${1-}" in
    -h | --help) usage; exit 0 ;;
    --folder)
        folder="${2:?fit.sh: --folder must be followed by a folder}"
        shift 2
        ;;
    --scheduler)
        cluster=(--scheduler "${2:?fit.sh: --scheduler must be followed by an address}")
        shift 2
        ;;
esac
if (($# < 3)); then
    usage >&2
    exit 64
fi
input="$1" components="$2" model="$3"
shift 3

if ((!${#cluster[@]})); then
    if [[ ! -e "$folder/scheduler.json" ]]; then
        echo "fit.sh: no cluster is running in $folder. Start one first: start.sh --folder '$folder'" >&2
        exit 69
    fi
    cluster=(--scheduler-file "$folder/scheduler.json")
fi
type -P daskgmm >/dev/null || {
    echo "fit.sh: no 'daskgmm' on the PATH. Activate the environment it is installed in" >&2
    exit 69
}
# The result is one JSON object on stdout; progress goes to stderr; the exit code is daskgmm's.
exec daskgmm fit "$input" --components "$components" --output "$model" "${cluster[@]}" "$@"
