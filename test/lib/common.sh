# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# For every shell test, and the scripts of bench/: a private folder, cleaning up however the script ends,
# waiting with a bound, and checks that say what they expected. Source it first; $VD_BUILD is the build folder.
#
#   $T             the private folder; removed at the end, with every mount below it, also when the script is killed
#   later PID      this process is ended at the end (by its number, never by name)
#   wait_for CONDITION SECONDS    CONDITION is shell text, run until it succeeds; fails the script after SECONDS
set -euo pipefail

: "${VD_BUILD:?is not set: the build folder}"
VD_BUILD=$(cd "$VD_BUILD" && pwd)
VD_SOURCE=${VD_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
T=$(mktemp -d "${TMPDIR:-/tmp}/vdiskfs-test.XXXXXX")
LATER_PIDS=()
export VDISKFS_RUNDIR=$T/run
mkdir "$VDISKFS_RUNDIR"

# A number is used again once its process is gone: with the time it began it is this process's.
began() {
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

later() {
    LATER_PIDS+=("$1:$(began "$1")")
}

# left PID:BEGAN: is that process still there?
left() {
    alive "${1%:*}" && [ "$(began "${1%:*}")" = "${1#*:}" ]
}

# A zombie, which our wait has yet to collect, is gone too.
alive() {
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}

# holds CONDITION SECONDS: as wait_for, but an answer rather than the end of the script.
holds() {
    local end=$((SECONDS + $2 + 1))
    until eval "$1"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.02
    done
}

wait_for() {
    holds "$1" "$2" || fail "waited $2 s in vain for: $1"
}

mounts_below() {
    # newest first; the kernel writes a space in a path as \040
    awk -v top="$T/" 'index($2, top) == 1 {print $2}' /proc/self/mounts | tac
}

# Who is killed cleans up nothing: meson kills the script's process group half a second after SIGTERM. So this waits
# in a session of its own until the process $1, which began at $2, is gone, and then ends the daemons of the folder
# $3, clears the mounts in it away, and removes it. A daemon is one of ours if its environment names our folder:
# its number may be another's by now. Holds no file of the script, so nobody waits for it.
guard() {
    setsid bash -c 'exec </dev/null >/dev/null 2>&1
        cd /
        while [ "$(sed "s/.*) //" "/proc/$1/stat" | cut -d" " -f20)" = "$2" ]; do sleep 1; done
        [ -d "$3" ] && [ ! -e "$3/kept" ] || exit 0
        for pid in $(jq -r .pid "$3"/*/*/info); do
            grep -qzxF "VDISKFS_RUNDIR=$3/run" "/proc/$pid/environ" && kill -9 "$pid"
        done
        awk -v top="$3/" "index(\$2, top) == 1 {print \$2}" /proc/self/mounts | tac |
            while read -r mnt; do umount -l "$mnt"; done
        rm -rf --one-file-system "$3"' guard "$$" "$(began $$)" "$T" &
    disown
}

cleanup() {
    local status=$? mnt pid
    trap - EXIT
    trap '' INT TERM HUP # a second one would leave the rest behind
    set +e
    if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
        for log in "$T"/*.log; do
            [ -s "$log" ] && { echo "--- ${log##*/}"; tail -n 40 "$log"; } >&2
        done
    fi
    cd /
    for pid in "${LATER_PIDS[@]}"; do # an unmount would wait for a daemon that the test has stopped
        left "$pid" && kill -CONT "${pid%:*}" 2>/dev/null
    done
    for mnt in $(mounts_below); do
        umount "$mnt" 2>/dev/null || umount -l "$mnt" 2>/dev/null
    done
    for pid in "${LATER_PIDS[@]}"; do
        left "$pid" && kill "${pid%:*}" 2>/dev/null
    done
    for pid in "${LATER_PIDS[@]}"; do
        holds "! left $pid" 10 || kill -9 "${pid%:*}" 2>/dev/null
    done
    if [ -n "${VD_KEEP:-}" ]; then
        : >"$T/kept"
        echo "kept: $T" >&2
    else
        rm -rf --one-file-system "$T"
    fi
    exit "$status"
}
guard
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    echo "FAIL: $* (${BASH_SOURCE[-1]##*/}:${BASH_LINENO[-2]})" >&2
    exit 1
}

ok() {
    echo "ok: $*"
}

skip() {
    echo "SKIP: $*"
    exit 77
}

# assert_eq WHAT FOUND WANTED
assert_eq() {
    [ "$2" = "$3" ] || fail "$1: found '$2', wanted '$3'"
}

# assert_lt WHAT FOUND LIMIT; both whole numbers
assert_lt() {
    [ "$2" -lt "$3" ] || fail "$1: found $2, wanted less than $3"
}

assert_ge() {
    [ "$2" -ge "$3" ] || fail "$1: found $2, wanted at least $3"
}

# assert_fails WHAT COMMAND ARGS...: the command must fail (and not by a signal); its output is in $T/fails.out
assert_fails() {
    local what=$1 status=0
    shift
    "$@" >"$T/fails.out" 2>&1 || status=$?
    [ "$status" -ne 0 ] || fail "$what: succeeded, and should not have"
    [ "$status" -lt 128 ] || fail "$what: died with status $status: $(cat "$T/fails.out")"
}

# assert_same WHAT FILE FILE
assert_same() {
    cmp "$2" "$3" >&2 || fail "$1: the bytes differ"
}

# random_file PATH SIZE [SEED]: no two blocks alike, and the same in each run
random_file() {
    "$VD_BUILD/bench/hammer" bytes --seed="${3:-1}" --size="$2" >"$1"
}

# file_bytes PATH, and the bytes of it that are allocated
file_bytes() {
    stat -c %s "$1"
}
