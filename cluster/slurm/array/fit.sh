#!/usr/bin/env bash
# A fit as array jobs: see README.md beside it. What the jobs of a turn ask for:
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=01:00:00
#SBATCH --requeue
set -euo pipefail
shopt -s extglob nullglob

usage() {
    cat <<USAGE
usage: fit.sh FOLDER INPUT PARTS OPTIONS
such as: fit.sh /shared/fit /shared/data.zarr 40 --components 8

Fits a mixture to INPUT by PARTS tasks at once, without any scheduler but SLURM. FOLDER, which all machines see, holds all
of it; OPTIONS are those of 'daskgmm survey'. Submitted again, it goes on where it was. Variables:

  START_MEMORY  of the job that makes each model, and finds the start (default: 4G)
  LAUNCHER      'here' runs the tasks as processes of this machine, as many at once as it has cores (default: sbatch)
USAGE
}

step=submit
case "${1-}" in
    -h | --help) usage; exit 0 ;;
    --part | --model) step="${1#--}"; shift ;;
esac
if (($# < 4)) || [[ ! "$3" =~ ^[1-9][0-9]*$ ]]; then usage >&2; exit 64; fi
mkdir -p "$1/log"
folder="$(cd "$1" && pwd)" input="$2" parts="$3" options=("${@:4}")
again=("$folder/fit.sh" --part "$folder" "$input" "$parts" "${options[@]}")
name="daskgmm-$(basename "$folder")"

# The state is what is there: S-1 to S-PARTS, the survey; M0, M1, ... models; P3-1 to P3-PARTS, the pass that M3 waits for.
look() {
    model="" turn="" found="$folder/S"
    for place in "$folder"/M+([0-9]); do
        if [[ -z "$turn" ]] || ((${place##*/M} > turn)); then turn="${place##*/M}" model="$place" found="$folder/P$turn"; fi
    done
}

part() { # number: what one task does
    look
    if [[ -z "$model" ]]; then
        daskgmm survey "$input" --part "$1/$parts" --output "$found-$1" "${options[@]}"
    else
        daskgmm stats "$model" "$input" --part "$1/$parts" --output "$found-$1"
    fi
}

make_model() { # the next one, of all parts; it ends here, with the code of the fit, where that has ended
    local result code=0 next=0
    look
    if [[ -n "$model" ]]; then next=$((turn + 1)); fi
    local these=() i
    for ((i = 1; i <= parts; i++)); do these+=("$found-$i"); done
    if [[ -z "$model" ]]; then
        result="$(daskgmm start "${these[@]}" --output "$folder/M0")" || code=$?
    else
        result="$(daskgmm mstep "$model" "${these[@]}" --output "$folder/M$next")" || code=$?
    fi
    echo "$result"
    if ((code != 0 && code != 3)); then exit "$code"; fi
    rm -rf "${these[@]}"
    if ((next > 0)); then rm -rf "$model"; fi
    if ended "$folder/M$next"; then mv "$folder/M$next" "$folder/model.zarr"; exit "$code"; fi
}

ended() { # model: one whose fit goes on holds the pass that it waits for
    [[ -n "$1" && ! -d "$1/waiting" ]]
}

missing() { # numbers of the parts that are not there
    local i
    look
    for ((i = 1; i <= parts; i++)); do [[ -e "$found-$i" ]] || echo "$i"; done
}

submit() { # the tasks that are missing, and after them the job that makes the next model
    local numbers after=() job
    numbers="$(missing | paste -sd,)"
    if [[ -n "$numbers" ]]; then
        job="$(sbatch --parsable --array="$numbers" --job-name="$name" --output="$folder/log/%A_%a.out" "${again[@]}")"
        after=(--dependency="afterok:${job%%;*}" --kill-on-invalid-dep=yes)
    fi
    again[1]=--model
    sbatch --job-name="$name" --output="$folder/log/%j.out" --mem="${START_MEMORY:-4G}" "${after[@]}" "${again[@]}"
}

here() { # the same without SLURM
    while true; do
        missing | xargs -r -P "$(nproc)" -I{} env SLURM_ARRAY_TASK_ID={} bash "${again[@]}" >>"$folder/log/parts.out" ||
            { echo "a part failed, as said above; those that are done stay" >&2; exit 1; }
        make_model
    done
}

case "$step" in
    part) part "$SLURM_ARRAY_TASK_ID" ;;
    model) # (A job that was requeued may have made it in its first life.)
        if [[ -z "$(missing)" ]]; then make_model; fi
        submit
        ;;
    submit)
        if [[ "${LAUNCHER:-sbatch}" != here && -n "$(squeue --noheader --me --name="$name")" ]]; then
            echo "jobs called $name are there already: squeue --me --name=$name" >&2
            exit 69
        fi
        look
        if ended "$model"; then mv "$model" "$folder/model.zarr"; fi # (killed before it could)
        if [[ -e "$folder/model.zarr" ]]; then echo "$folder/model.zarr is complete: nothing to do" >&2; exit 0; fi
        # Jobs run a copy, so that this file may change meanwhile.
        if [[ ! "$0" -ef "$folder/fit.sh" ]]; then cp "$0" "$folder/.fit.sh"; mv "$folder/.fit.sh" "$folder/fit.sh"; fi
        if [[ "${LAUNCHER:-sbatch}" == here ]]; then here; fi
        submit
        ;;
esac
