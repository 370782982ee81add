#!/usr/bin/env bash
# Run a command of daskgmm on the machines that a batch system has given to this job: a Dask scheduler and the command
# here, workers by the batch system's own launcher, then an orderly end with the command's exit code.
set -euo pipefail

usage() {
    cat <<USAGE
usage: LAUNCHER=... run.sh COMMAND [ARGUMENTS OF THE COMMAND]
such as: LAUNCHER=srun run.sh fit data.zarr --components 8 --output model.zarr

COMMAND is fit, select, predict or score. Variables:

  LAUNCHER      what starts a program on each slot of the job, such as srun (default: one worker, on this machine)
  CONTAINER     what each program runs in, such as "apptainer exec daskgmm.sif" (default: nothing)
  MEMORY_LIMIT  of each worker (default: 2GiB)
  INTERFACE     the network that all machines share, such as ib0 (default: Dask's choice)
  SHARED        a folder that all machines see, for the files of this run (default: the current one)
USAGE
}

case "${1-}" in
    -h | --help) usage; exit 0 ;;
    '' | -*) usage >&2; exit 64 ;;
esac
read -ra launcher <<<"${LAUNCHER-}"

# What `daskgmm status` says to go on with: the scheduler of this run ends with it.
DASKGMM_AGAIN="LAUNCHER=$(printf '%q' "${LAUNCHER-}") $(printf '%q ' "$0" "$@")"
export DASKGMM_AGAIN="${DASKGMM_AGAIN% }"

# --- as in ../slurm/nightly.sbatch
# A folder of this run alone: what an earlier run left, or an earlier life of the same job, is never joined.
folder="$(mktemp -d "${SHARED:-$PWD}/daskgmm-XXXXXX")"
scheduler="" workers="" command="" signal=""
trap 'stop; rm -rf "$folder"' EXIT

stop() { # the scheduler, which sends the workers home; then what is left
    local name
    if [[ -n "$scheduler" ]]; then kill -TERM "$scheduler" 2>/dev/null || true; fi
    for name in TERM KILL; do
        for _ in {1..70}; do # 7 seconds
            [[ -n "$(jobs -pr)" ]] || return 0
            sleep 0.1
        done
        kill -s "$name" $(jobs -pr) 2>/dev/null || true
    done
}

came() { # signal: end the command, which can go on later
    signal="$1"
    if [[ "$signal" != USR1 ]]; then # the command may have got it too, and would be cut short by a second one
        for _ in {1..50}; do
            kill -0 "$command" 2>/dev/null || return 0
            sleep 0.1
        done
    fi
    kill -s "${signal/USR2/TERM}" "$command" 2>/dev/null || true
}
for name in USR1 USR2 XCPU INT TERM; do trap "came $name" "$name"; done

# Whoever reaches a scheduler can run code as you, and others work on the same machines: a certificate of this run, in a
# folder that only you can read, keeps them out.
openssl req -x509 -newkey rsa:2048 -nodes -days 400 -subj /CN=daskgmm \
    -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>"$folder/openssl.log" || { cat "$folder/openssl.log" >&2; exit 69; }
read -ra container <<<"${CONTAINER-}"
joining=(--scheduler-file "$folder/scheduler.json")
joining+=(--tls-ca-file "$folder/cert.pem" --tls-cert "$folder/cert.pem" --tls-key "$folder/key.pem")
network=(${INTERFACE:+--interface "$INTERFACE"} --no-dashboard)
dask=dask
if ((!${#container[@]})); then # some launchers do not pass the PATH on
    dask="$(type -P dask)" || { echo "no 'dask' on the PATH: activate the environment of daskgmm" >&2; exit 69; }
fi

# (By variables: `dask scheduler` takes --interface not together with the files of TLS.)
env DASK_DISTRIBUTED__COMM__TLS__CA_FILE="$folder/cert.pem" \
    DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__CERT="$folder/cert.pem" \
    DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__KEY="$folder/key.pem" \
    "${container[@]}" "$dask" scheduler --scheduler-file "$folder/scheduler.json" "${network[@]}" --protocol tls \
    --port 0 --dashboard-address 127.0.0.1:0 >"$folder/scheduler.log" 2>&1 &
scheduler=$!
# One thread a process: it is as fast as the core. The nanny of `dask worker` replaces one that dies.
# (What a worker serves beside its work has no TLS: it stays on its machine.)
"${launcher[@]}" "${container[@]}" "$dask" worker "${joining[@]}" "${network[@]}" --dashboard-address 127.0.0.1:0 \
    --nworkers 1 --nthreads 1 --memory-limit "${MEMORY_LIMIT:-2GiB}" --death-timeout 60 >"$folder/workers.log" 2>&1 &
workers=$!
"${container[@]}" daskgmm "$@" "${joining[@]}" &
command=$!

wait -n || true # for whatever ends first, or a signal
lost=""
for what in scheduler workers; do kill -0 "${!what}" 2>/dev/null || lost="$what"; done
if [[ -n "$lost" && -z "$signal" ]] && kill -TERM "$command" 2>/dev/null; then
    echo "the $lost ended before the command did; the end of their logs follows" >&2
else
    lost=""
fi
while kill -0 "$command" 2>/dev/null; do wait "$command" || true; done # (a signal ends a wait early)
wait "$command" && code=0 || code=$?
if [[ -n "$lost" ]] && ((code)); then code=69; fi
case "$code" in
    69 | 70 | 1??) tail -n 20 "$folder"/{scheduler,workers}.log >&2 || true ;; # (one may not be there yet)
esac
trap - EXIT
stop
rm -rf "$folder"
# ---
exit "$code"
