# What start.sh and stop.sh do on a host: `bash -s` there reads this, then a call of one of its functions.
# (All by standard input: the words after `ssh HOST` are parsed once more, by whatever shell the user has there.)
set -euo pipefail

keep() { # marker, command...: run it again whenever it ends, such as a worker that has lost its scheduler
    shift
    local running
    trap 'kill -TERM "$running" 2>/dev/null; wait "$running"; exit 0' TERM
    while :; do
        "$@" & running=$!
        wait "$running"
        sleep 3 & running=$!
        wait "$running"
    done
}

ours() { # pid: what was started here, and not another process that got its number since
    [[ "$(ps -ww -o args= -p "$1" 2>/dev/null)" == *"daskgmm-hosts $PWD "* ]]
}

check() { # bin
    "$1/python3" -P -c 'import daskgmm, distributed' 2>/dev/null && [[ -x "$1/dask" ]] && return 0
    echo "$HOSTNAME: $1/python3 cannot import daskgmm. Install it there, or name the folder of its programs by --bin" >&2
    exit 69
}

begin() { # folder, name, bin, certificate, key, what follows `dask`...
    local folder="$1" name="$2" bin="$3" certificate="$4" key="$5"
    shift 5
    umask 077
    cd && mkdir -p "$folder" && cd "$folder"
    if [[ -e "$name.pid" ]] && ours "$(<"$name.pid")"; then
        echo "$HOSTNAME: the $name of another start runs in $PWD. Stop it where it was started, or name another --folder" >&2
        exit 73
    fi
    # (Whole, or not at all: the scheduler of this host may be reading them.)
    printf '%s\n' "$certificate" >"cert.$name" && mv "cert.$name" cert.pem
    printf '%s\n' "$key" >"key.$name" && mv "key.$name" key.pem
    export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
    setsid bash -c "$(declare -f keep); keep \"\$@\"" - "daskgmm-hosts $PWD " "$bin/dask" "$@" \
        --tls-ca-file "$PWD/cert.pem" --tls-cert "$PWD/cert.pem" --tls-key "$PWD/key.pem" </dev/null >"$name.log" 2>&1 &
    echo "$!" >"$name.pid"
}

end() { # folder, name
    cd && cd "$1" 2>/dev/null || return 0
    [[ -e "$2.pid" ]] || return 0
    local pid
    pid="$(<"$2.pid")"
    if ours "$pid"; then
        kill -TERM "$pid" 2>/dev/null || true
        for _ in {1..150}; do # 15 seconds
            ours "$pid" || break
            sleep 0.1
        done
        if ours "$pid"; then kill -KILL -- "-$pid" 2>/dev/null || true; fi # the group that setsid has made
    fi
    rm -f "$2.pid"
    if ! compgen -G '*.pid' >/dev/null; then rm -f cert.pem key.pem; fi
}
