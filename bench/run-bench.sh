#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bench [NAME] [--json]: the budgets, side by side with the peers.
#
# A budget is a ratio, so each round measures every program once, one after the other, and the table gives the
# medians of the rounds: what else the machine does then falls on all alike. NAME is one of
#   floor   cached 4 KiB random reads against a FUSE server that only answers
#   qsd     the same against qemu-storage-daemon's FUSE export, the image in the page cache
#   nbd     the same against nbdkit --filter=cache with nbdfuse
#   seq     cached 1 MiB sequential reads against both of the first
#   write   4 KiB random writes to a plain disk against qemu-storage-daemon
#   clones  disks with layers: a program of its own, clones.sh, which see
#   filters what filters cost: likewise, filters.sh
# VD_BENCH_ROUNDS (5) and VD_BENCH_SECONDS (2) say how long; VD_BENCH_MIB (256) how large the image is.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VD_BUILD=${VD_BUILD:-$top/build}
if [ "${1:-}" = clones ] || [ "${1:-}" = filters ]; then
    exec env VD_BUILD="$VD_BUILD" "$top/bench/$1.sh" "${@:2}"
fi
. "$top/test/lib/common.sh"
. "$top/test/lib/mount.sh"
. "$top/bench/peers.sh"

rounds=${VD_BENCH_ROUNDS:-5}
seconds=${VD_BENCH_SECONDS:-2}
mib=${VD_BENCH_MIB:-256}
json=no
chosen=

usage() {
    echo "usage: run bench [floor|qsd|nbd|seq|write] [--json]" >&2
    echo "       run bench clones [PART...] [--json]" >&2
    echo "       run bench filters [--json]" >&2
    exit 2
}
for arg in "$@"; do
    case $arg in
    --json) json=yes ;;
    floor | qsd | nbd | seq | write) [ -z "$chosen" ] || usage; chosen=$arg ;;
    *) usage ;;
    esac
done

# name | row | peer | budget | what fio does: rw bs depth
rows=(
    "floor|cached 4 KiB random read, QD1|nullfs|0.92|randread 4k 1"
    "floor|cached 4 KiB random read, QD32|nullfs|0.95|randread 4k 32"
    "qsd|cached 4 KiB random read, QD1|qsd|2|randread 4k 1"
    "qsd|cached 4 KiB random read, QD32|qsd|3.5|randread 4k 32"
    "nbd|cached 4 KiB random read, QD1|nbd|3|randread 4k 1"
    "nbd|cached 4 KiB random read, QD32|nbd|7|randread 4k 32"
    "seq|cached 1 MiB sequential read, QD4|nullfs|0.85|read 1m 4"
    "seq|cached 1 MiB sequential read, QD4|qsd|5|read 1m 4"
    "write|4 KiB random write, plain disk, QD32|qsd|2.5|randwrite 4k 32"
)
wanted=()
for row in "${rows[@]}"; do
    [ -n "$chosen" ] && [ "${row%%|*}" != "$chosen" ] || wanted+=("$row")
done

# A row needs two runs of fio, "SERVER|WORK"; rows share them.
runs=()
for row in "${wanted[@]}"; do
    IFS='|' read -r _ _ peer _ work <<<"$row"
    for run in "vdiskfs|$work" "$peer|$work"; do
        case " ${runs[*]// /_} " in *" ${run// /_} "*) ;; *) runs+=("$run") ;; esac
    done
done

# Writers get images of their own, so that nobody reads what another writes.
mkdir "$T/source"
image=$T/source/disk.img
random_file "$image" "${mib}M"
cp "$image" "$T/source/written.img"
cp "$image" "$T/written-qsd.img"
cat "$image" >/dev/null

declare -A target=()
for run in "${runs[@]}"; do
    server=${run%%|*}
    case $run in
    vdiskfs\|randwrite*) key=vdiskfs-write ;;
    qsd\|randwrite*) key=qsd-write ;;
    *) key=$server ;;
    esac
    [ -z "${target[$key]:-}" ] || continue
    case $key in
    vdiskfs-write)
        [ -n "${target[vdiskfs]:-}" ] || { start_vdiskfs "$image"; target[vdiskfs]=$TARGET; }
        target[$key]=${target[vdiskfs]/%disk.img/written.img}
        [ -e "${target[$key]}" ] || target[$key]=${target[vdiskfs]} # nullfs in its place has one file
        ;;
    qsd-write)
        start_qsd "$T/written-qsd.img"
        target[$key]=$TARGET
        ;;
    *)
        "start_$server" "$image"
        target[$key]=$TARGET
        ;;
    esac
done

target_of() {
    case $1 in
    vdiskfs\|randwrite*) echo "${target[vdiskfs-write]}" ;;
    qsd\|randwrite*) echo "${target[qsd-write]}" ;;
    *) echo "${target[${1%%|*}]}" ;;
    esac
}

# measure RUN: I/O per second
measure() {
    local run=$1 rw bs depth
    read -r rw bs depth <<<"${run#*|}"
    # --allow_file_create=0: never measure a plain file that fio itself made where a mount should be
    fio --name=bench --filename="$(target_of "$run")" --size="${mib}M" --allow_file_create=0 --direct=1 \
        --ioengine=libaio --rw="$rw" --bs="$bs" --iodepth="$depth" --runtime="$seconds" --time_based \
        --ramp_time=0.2 --randrepeat=0 --norandommap --output-format=json >"$T/fio.out" 2>"$T/fio.log" ||
        fail "fio on $run: $(cat "$T/fio.out")"
    sed -n '/^{/,$p' "$T/fio.out" | jq -r '.jobs[0] | .read.iops + .write.iops'
}

# As a guest does, keep the written images open: else each run ends with a detach, whose flush is of the next.
for key in vdiskfs-write qsd-write; do
    [ -z "${target[$key]:-}" ] || exec {held}<>"${target[$key]}"
done

# Warm: read until the cache has it all. A fill may be dropped or come late, so once is not the rule.
reads_nothing() {
    reads_backing "$T/vdiskfs" dd if="${target[vdiskfs]}" of=/dev/null bs=1M iflag=direct status=none
    [ "$BACKING_BYTES" -eq 0 ]
}
for server in "${!target[@]}"; do
    dd if="${target[$server]}" of=/dev/null bs=1M iflag=direct status=none
done
warm_bytes=
if [ -n "${VD_PIDS[$T/vdiskfs]:-}" ]; then
    wait_for reads_nothing 60
    warm_bytes=$(stat_of "$T/vdiskfs" backing_read_bytes)
fi

declare -A found=()
for ((round = 1; round <= rounds; round++)); do
    for i in "${!runs[@]}"; do
        [ -t 2 ] && printf '\rround %d of %d, %-40s' "$round" "$rounds" "${runs[$i]}" >&2
        found["$i"]+="$(measure "${runs[$i]}") "
    done
done
[ -t 2 ] && printf '\r%60s\r' '' >&2

if [ -n "$warm_bytes" ] && [ "$(stat_of "$T/vdiskfs" backing_read_bytes)" != "$warm_bytes" ]; then
    echo "note: vdiskfs read from the backing while it was measured; its rows are not of a warm cache" >&2
fi

median_of() {
    local i
    for i in "${!runs[@]}"; do
        [ "${runs[$i]}" = "$1" ] || continue
        # shellcheck disable=SC2086
        printf '%s\n' ${found[$i]} | sort -g | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'
    done
}

for row in "${wanted[@]}"; do
    IFS='|' read -r name what peer budget work <<<"$row"
    jq -cn --arg name "$name" --arg row "$what" --arg peer_name "$peer" --argjson budget "$budget" \
        --argjson vdiskfs "$(median_of "vdiskfs|$work")" --argjson peer "$(median_of "$peer|$work")" \
        '{$name, $row, $peer_name, vdiskfs: ($vdiskfs | round), peer: ($peer | round),
          ratio: ($vdiskfs / $peer * 1000 | round / 1000), $budget} | .reached = (.ratio >= .budget)'
done >"$T/rows"

if [ "$json" = yes ]; then
    jq -s . "$T/rows"
    exit 0
fi
echo "I/O per second: medians of $rounds interleaved rounds of $seconds s; image of $mib MiB"
printf '%-6s %-38s %-7s %10s %10s %7s %7s  %s\n' NAME ROW PEER VDISKFS "THE PEER" RATIO BUDGET REACHED
jq -r '[.name, .row, .peer_name, .vdiskfs, .peer, .ratio, .budget, if .reached then "yes" else "no" end] | @tsv' \
    "$T/rows" | while IFS=$'\t' read -r name what peer ours theirs ratio budget reached; do
    printf '%-6s %-38s %-7s %10s %10s %7.2f %7.2f  %s\n' "$name" "$what" "$peer" "$ours" "$theirs" \
        "$ratio" "$budget" "$reached"
done
