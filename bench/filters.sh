#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bench filters [--json]: what filters cost.
#
#   upcall    nanoseconds of an upcall and return, and the system calls that a million of them make
#   pass      cached 4 KiB random reads, and writes, of a disk with four filters that only pass, against one without
# Two disks of one mount, measured in turn; medians. VD_BENCH_ROUNDS (7) and VD_BENCH_SECONDS (2) say how long.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VD_BUILD=${VD_BUILD:-$top/build}
. "$top/test/lib/common.sh"
. "$top/test/lib/mount.sh"

rounds=${VD_BENCH_ROUNDS:-7}
seconds=${VD_BENCH_SECONDS:-2}
mib=${VD_BENCH_MIB:-256}
json=no
[ "${1:-}" = --json ] && json=yes

# calls N: the system calls of N upcalls of each kind
calls() {
    local kind
    for kind in upcall service nested; do
        strace -f -c -o "$T/strace" "$VD_BUILD/bench/upcall" "$1" "$kind" >/dev/null
    done
    awk '$NF == "total" {n = $4} END {print n}' "$T/strace"
}
ns=$("$VD_BUILD/bench/upcall" --json)
few=$(calls 10)
many=$(calls 1000000)

mkdir "$T/source"
random_file "$T/source/none.img" "${mib}M"
cp "$T/source/none.img" "$T/source/four.img"
mount_vd "$T/source" "$T/mnt" --cache-size=2G --filter-dir="$VD_BUILD/src/filter/test"
for i in 1 2 3 4; do
    vdisk filter attach "$T/mnt/four.img" pass$i
done
exec {held_none}<>"$T/mnt/none.img" {held_four}<>"$T/mnt/four.img"
for disk in none four; do
    dd if="$T/mnt/$disk.img" of=/dev/null bs=1M iflag=direct status=none
    dd if="$T/mnt/$disk.img" of=/dev/null bs=1M iflag=direct status=none
done

measure() {
    local disk=$1 rw=$2 depth=$3
    fio --name=bench --filename="$T/mnt/$disk.img" --size="${mib}M" --allow_file_create=0 --direct=1 \
        --ioengine=libaio --rw="$rw" --bs=4k --iodepth="$depth" --runtime="$seconds" --time_based \
        --ramp_time=0.2 --randrepeat=0 --norandommap --output-format=json >"$T/fio.out" 2>"$T/fio.log" ||
        fail "fio on $disk: $(cat "$T/fio.out")"
    sed -n '/^{/,$p' "$T/fio.out" | jq -r '.jobs[0] | .read.iops + .write.iops'
}

median() {
    sort -g | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'
}

works=("randread 1" "randread 32" "randwrite 32")
for ((round = 1; round <= rounds; round++)); do
    for i in "${!works[@]}"; do
        # who comes second finds the pages that the first has made dirty
        for disk in $([ $((round % 2)) -eq 0 ] && echo four none || echo none four); do
            # shellcheck disable=SC2086
            measure $disk ${works[$i]} >>"$T/$disk-$i"
        done
    done
done

for i in "${!works[@]}"; do
    read -r rw depth <<<"${works[$i]}"
    jq -cn --arg row "4 KiB $rw, QD$depth: four pass filters" --argjson four "$(median <"$T/four-$i")" \
        --argjson none "$(median <"$T/none-$i")" --argjson budget "$([ "$rw" = randread ] && echo 0.9 || echo null)" \
        '{$row, four: ($four | round), none: ($none | round), ratio: ($four / $none * 1000 | round / 1000), $budget}
         | .reached = (.budget == null or .ratio >= .budget)'
done >"$T/rows"

if [ "$json" = yes ]; then
    jq -s --argjson upcall_ns "$ns" --argjson few "$few" --argjson many "$many" \
        '{$upcall_ns, system_calls: {"10": $few, "1000000": $many}, rows: .}' "$T/rows"
    exit 0
fi
jq -r '"upcall and return: \(.upcall) ns (budget 100)   with a service: \(.service)   nested: \(.nested)   by swapcontext: \(.ucontext)"' <<<"$ns"
echo "system calls of 10 upcalls: $few, of 1000000: $many"
printf '%-40s %10s %10s %7s %7s  %s\n' ROW FILTERED NONE RATIO BUDGET REACHED
jq -r '[.row, .four, .none, .ratio, (.budget // "-"), if .reached then "yes" else "no" end] | @tsv' "$T/rows" |
    while IFS=$'\t' read -r row four none ratio budget reached; do
        printf '%-40s %10s %10s %7s %7s  %s\n' "$row" "$four" "$none" "$ratio" "$budget" "$reached"
    done
