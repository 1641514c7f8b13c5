#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bench filters [--json]: what filters cost.
#
#   upcall    nanoseconds of an upcall and return, and the system calls that a million of them make
#   rows      cached 4 KiB random reads, and writes, of a disk with filters, against one without
# Measured in turn; medians. Filters that leave the bytes as they are come and go on one and the same disk, since two disks with the same
# bytes differ by more than those cost; crypt has disks of its own. VD_BENCH_ROUNDS (7) and VD_BENCH_SECONDS (2) say how long.
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

# each disk with what it has; data come in through the mount, as crypt wants it
declare -A filters=(
    [none]=""
    [four]="four that pass"
    [crypt512]="crypt, sectors of 512"
    [crypt4096]="crypt, sectors of 4096"
    [held]="one that holds each request 1 us"
)
disks=(none four crypt512 crypt4096 held)
declare -A budget=([four]=0.9)
mkdir "$T/source" "$T/filters"
ln -s "$VD_BUILD"/filters/*.so "$VD_BUILD"/src/filter/test/*.so "$T/filters/"
head -c 64 /dev/urandom >"$T/key"
random_file "$T/data" "${mib}M"
for disk in none crypt512 crypt4096; do
    truncate -s "${mib}M" "$T/source/$disk.img"
done
mount_vd "$T/source" "$T/mnt" --cache-size=$((8 * mib))M --filter-dir="$T/filters"
for sector in 512 4096; do
    vdisk filter attach "$T/mnt/crypt$sector.img" crypt "key-file=$T/key" "sector-size=$sector"
done
for disk in none crypt512 crypt4096; do
    dd if="$T/data" of="$T/mnt/$disk.img" bs=1M conv=notrunc,fsync status=none
    exec {fd}<>"$T/mnt/$disk.img" # stays open
    for _ in 1 2; do
        dd if="$T/mnt/$disk.img" of=/dev/null bs=1M iflag=direct status=none
    done
done

# with KIND COMMAND...: runs it with its filters on the plain disk
with() {
    local kind=$1 i
    shift
    case $kind in
    four) for i in 1 2 3 4; do vdisk filter attach "$T/mnt/none.img" pass$i; done ;;
    held) vdisk filter attach "$T/mnt/none.img" delay all=1us ;;
    esac
    "$@"
    case $kind in
    four) for i in 1 2 3 4; do vdisk filter detach "$T/mnt/none.img" pass$i; done ;;
    held) vdisk filter detach "$T/mnt/none.img" delay ;;
    esac
}

measure() {
    local disk=$1 rw=$2 depth=$3
    case $disk in four | held) disk=none ;; esac
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
        # in another order each round: who comes later finds the pages that those before have made dirty
        for ((k = 0; k < ${#disks[@]}; k++)); do
            disk=${disks[$(((k + round) % ${#disks[@]}))]}
            # shellcheck disable=SC2086
            with "$disk" measure "$disk" ${works[$i]} >>"$T/$disk-$i"
        done
    done
done

for disk in "${disks[@]:1}"; do
    for i in "${!works[@]}"; do
        read -r rw depth <<<"${works[$i]}"
        goal=null
        [ "$rw" != randread ] || goal=${budget[$disk]:-null}
        jq -cn --arg row "4 KiB $rw, QD$depth: ${filters[$disk]}" --argjson filtered "$(median <"$T/$disk-$i")" \
            --argjson none "$(median <"$T/none-$i")" --argjson budget "$goal" \
            '{$row, filtered: ($filtered | round), none: ($none | round), ratio: ($filtered / $none * 1000 | round / 1000), $budget}
             | .reached = (.budget == null or .ratio >= .budget)'
    done
done >"$T/rows"

if [ "$json" = yes ]; then
    jq -s --argjson upcall_ns "$ns" --argjson few "$few" --argjson many "$many" \
        '{$upcall_ns, system_calls: {"10": $few, "1000000": $many}, rows: .}' "$T/rows"
    exit 0
fi
jq -r '"upcall and return: \(.upcall) ns (budget 100)   with a service: \(.service)   nested: \(.nested)   by swapcontext: \(.ucontext)"' <<<"$ns"
echo "system calls of 10 upcalls: $few, of 1000000: $many"
printf '%-56s %10s %10s %7s %7s  %s\n' ROW FILTERED NONE RATIO BUDGET REACHED
jq -r '[.row, .filtered, .none, .ratio, (.budget // "-"), if .budget == null then "-" elif .reached then "yes" else "no" end] | @tsv' "$T/rows" |
    while IFS=$'\t' read -r row filtered none ratio budget reached; do
        printf '%-56s %10s %10s %7s %7s  %s\n' "$row" "$filtered" "$none" "$ratio" "$budget" "$reached"
    done
