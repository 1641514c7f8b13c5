#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bench clones [PART...] [--json]: disks with layers, beside plain disks and beside qcow2 overlays. PART is one of
#   write   4 KiB random writes to a clone: where it owns the blocks, and where it does not yet
#   depth   cached random reads of a disk with 1000 snapshots against one with a single one
#   qcow2   reads and writes at depth 1, 10 and 100 against qcow2 overlays through qemu-storage-daemon
#   storm   64 clones read the same 200 MiB from cold: what the backing is asked for
#   stall   the longest wait of a guest that writes and flushes while snapshots are taken
#   scale   depth 1000, 10 million extents, thousands of clones: time, memory, descriptors
#
# As in run-bench.sh what is compared is measured in turn, round by round, and the medians make the ratio.
# Writes begin with clean pages everywhere (a sync before each run), else who comes later pays for the others.
# VD_BENCH_ROUNDS (5), VD_BENCH_SECONDS (2), VD_BENCH_MIB (256); VD_BENCH_DEPTH (1000), VD_BENCH_EXTENTS (10000000),
# VD_BENCH_CLONES (2000) make the large ones smaller.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VD_BUILD=${VD_BUILD:-$top/build}
. "$top/test/lib/common.sh"
. "$top/test/lib/mount.sh"

rounds=${VD_BENCH_ROUNDS:-5}
seconds=${VD_BENCH_SECONDS:-2}
mib=${VD_BENCH_MIB:-256}
depth=${VD_BENCH_DEPTH:-1000}
extents=${VD_BENCH_EXTENTS:-10000000}
nclones=${VD_BENCH_CLONES:-2000}
bytes=$((mib * 1048576))
layer_writes=8 # 4 KiB each, between two snapshots
parts=()
json=no

usage() {
    echo "usage: run bench clones [write|depth|qcow2|storm|stall|scale]... [--json]" >&2
    exit 2
}
for arg in "$@"; do
    case $arg in
    --json) json=yes ;;
    write | depth | qcow2 | storm | stall | scale) parts+=("$arg") ;;
    *) usage ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=(write depth qcow2 storm stall scale)

say() {
    [ ! -t 2 ] || printf '\r%-78s' "$*" >&2
}

layers() {
    "$VD_BUILD/bench/layers" "$@"
}

# ---- rows: {name, row, unit, ours, peer_name, peer, ratio, sense, budget, reached}; null where there is none

# ratio_row NAME ROW UNIT OURS PEER-NAME PEER at-least|at-most BUDGET; BUDGET null: for comparison only
ratio_row() {
    jq -cn --arg name "$1" --arg row "$2" --arg unit "$3" --argjson ours "$4" --arg peer_name "$5" --argjson peer "$6" \
        --arg sense "$7" --argjson budget "$8" \
        '{$name, $row, $unit, $ours, $peer_name, $peer, ratio: ($ours / $peer * 1000 | round / 1000), $sense, $budget}
         | .reached = (if .budget == null then null elif .sense == "at-least" then .ratio >= .budget
                       else .ratio <= .budget end)' >>"$T/rows"
}

# figure NAME ROW UNIT VALUE [MOST]: a number of its own
figure() {
    jq -cn --arg name "$1" --arg row "$2" --arg unit "$3" --argjson ours "$4" --argjson budget "${5:-null}" \
        '{$name, $row, $unit, ours: (if $ours < 100 then $ours * 1000 | round / 1000 else $ours | round end), peer_name: null, peer: null, ratio: null, sense: "at-most", $budget}
         | .reached = (if .budget == null then null else .ours <= .budget end)' >>"$T/rows"
}

declare -A found=()
median() { # of the measurements KEY
    # shellcheck disable=SC2086
    printf '%s\n' ${found[$1]} | sort -g |
        awk '{v[NR] = $1} END {printf "%.0f\n", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'
}

# ---- fio

# fio_run FILE RW DEPTH ARGS...: I/O per second
fio_run() {
    local file=$1 rw=$2 iodepth=$3
    shift 3
    fio --name=bench --filename="$file" --size="${mib}M" --allow_file_create=0 --direct=1 --ioengine=libaio \
        --rw="$rw" --bs=4k --iodepth="$iodepth" --runtime="$seconds" --randrepeat=0 --output-format=json "$@" \
        >"$T/fio.out" 2>"$T/fio.log" || fail "fio $rw on $file: $(cat "$T/fio.out")"
    sed -n '/^{/,$p' "$T/fio.out" | jq -r '.jobs[0] | .read.iops + .write.iops'
}

# read_rate KEY FILE DEPTH; again and again the same blocks
read_rate() {
    say "$1"
    found[$1]+="$(fio_run "$2" randread "$3" --time_based --norandommap --ramp_time=0.2) "
}

overwrite_rate() {
    say "$1"
    sync
    found[$1]+="$(fio_run "$2" randwrite 32 --time_based --norandommap --ramp_time=0.2) "
}

# Each block at most once, so that every write finds a block that was not written before.
first_write_rate() {
    say "$1"
    sync
    found[$1]+="$(fio_run "$2" randwrite 32) "
}

# ---- disks

src=$T/source
mnt=$T/vdiskfs
mkdir "$src"

mounted_now() {
    [ -n "${VD_PIDS[$mnt]:-}" ] && alive "${VD_PIDS[$mnt]}"
}

mount_now() {
    mounted_now || mount_vd "$src" "$mnt" --cache-size=8G
}

unmount_now() {
    mounted_now || return 0
    sync
    umount_vd "$mnt"
}

# As a guest does, keep a disk open: else each run ends with a detach, whose flush is of the next one.
declare -A held=()
hold() {
    local fd
    exec {fd}<>"$1"
    held[$1]=$fd
}
let_go() {
    local fd=${held[$1]}
    exec {fd}>&-
    unset "held[$1]"
}
let_all_go() {
    local file
    for file in "${!held[@]}"; do let_go "$file"; done
}

reads_nothing() {
    reads_backing "$mnt" dd if="$1" of=/dev/null bs=1M iflag=direct status=none
    [ "$BACKING_BYTES" -eq 0 ]
}
# A fill may be dropped or come late, so reading once is not enough.
warm() {
    wait_for "reads_nothing '$1'" 120
}

# fill FILE: with the golden bytes, always in pieces of this size. The kernel keeps what was written at once in
# one piece of page cache, and ext4 looks at all of it for each 4 KiB that is written there later: files filled
# by 1 MiB are overwritten at a third of the speed.
fill() {
    dd if="$T/golden" of="$1" bs=64K conv=notrunc status=none
}

golden() { # one for all parts; the same bytes
    [ -e "$T/golden" ] || random_file "$T/golden" "$bytes"
}

# Maps are baked and merged behind the guest's back: what is compared shall not be in the middle of it.
written_by_daemon() {
    awk '/^write_bytes/ {print $2}' "/proc/$(vd_pid "$mnt")/io"
}
settled() {
    local before
    before=$(written_by_daemon)
    sleep 0.3
    [ "$before" = "$(written_by_daemon)" ]
}

# layered_disk NAME DEPTH: a disk with DEPTH snapshots, its live layer empty
layered_disk() {
    [ ! -e "$src/$1" ] || return 0
    golden
    mount_now
    say "making a disk with $2 snapshots"
    fill "$mnt/$1"
    layers snapshots "$src" "$mnt" "$1" "$2" "$layer_writes" >"$T/made-$1.json" || fail "snapshots of $1"
    wait_for settled 60
}

# fresh_clone DISK NAME: a clone nobody wrote to, held open
fresh_clone() {
    layers clones "$src" "$1" "$2-" 1 >/dev/null || fail "no clone of $1"
    mv "$mnt/$2-0" "$mnt/$2"
    hold "$mnt/$2"
}

# ---- write

part_write() {
    local i
    golden
    mount_now
    layered_disk base 1
    fill "$mnt/plain"
    hold "$mnt/plain"
    fresh_clone base owned
    fill "$mnt/owned"
    for ((i = 1; i <= rounds; i++)); do
        overwrite_rate plain "$mnt/plain"
        overwrite_rate owned "$mnt/owned"
        first_write_rate plain-once "$mnt/plain"
        fresh_clone base "first-$i"
        first_write_rate first "$mnt/first-$i"
        truncate -s "${mib}M" "$mnt/hole-$i"
        hold "$mnt/hole-$i"
        first_write_rate hole "$mnt/hole-$i"
        let_go "$mnt/first-$i"
        let_go "$mnt/hole-$i"
    done
    let_all_go
    ratio_row write "4 KiB random overwrite of a clone, QD32" IOPS "$(median owned)" "plain disk" "$(median plain)" \
        at-least 0.9
    ratio_row write "4 KiB first write to a clone, QD32" IOPS "$(median first)" "plain disk" "$(median plain-once)" \
        at-least 0.5
    ratio_row write "4 KiB first write to a clone, QD32" IOPS "$(median first)" "plain, into a hole" "$(median hole)" \
        at-least null
    rm -f "$mnt"/first-* "$mnt"/hole-* "$mnt/owned" "$mnt/plain"
}

# ---- depth

part_depth() {
    local i q
    layered_disk base 1
    layered_disk deep "$depth"
    mount_now
    hold "$mnt/base"
    hold "$mnt/deep"
    warm "$mnt/base"
    warm "$mnt/deep"
    for ((i = 1; i <= rounds; i++)); do
        for q in 1 32; do
            read_rate "depth-1-$q" "$mnt/base" "$q"
            read_rate "depth-$depth-$q" "$mnt/deep" "$q"
        done
    done
    let_all_go
    for q in 1 32; do
        ratio_row depth "cached 4 KiB random read at depth $depth, QD$q" IOPS "$(median "depth-$depth-$q")" "depth 1" \
            "$(median "depth-1-$q")" at-least 0.95
    done
}

# ---- qcow2

# qcow2_chain DEPTH: q/DEPTH/0 is the raw image, each further one an overlay of the one before; the same writes as
# layered_disk's.
qcow2_chain() {
    local folder=$T/q/$1 i format=raw at
    local offsets commands
    mkdir -p "$folder"
    fill "$folder/0"
    layers offsets "$bytes" "$1" "$layer_writes" >"$folder/offsets"
    i=0
    while read -r -a offsets; do
        say "qcow2 overlay $((i + 1)) of $1"
        commands=()
        for at in "${offsets[@]}"; do commands+=(-c "write -q -P $((i % 251 + 1)) $at 4096"); done
        qemu-io -f "$format" "${commands[@]}" "$folder/$i" >/dev/null || fail "qemu-io on $folder/$i"
        qemu-img create -q -f qcow2 -b "$folder/$i" -F "$format" "$folder/$((i + 1))" || fail "qemu-img create"
        i=$((i + 1))
        format=qcow2
    done <"$folder/offsets"
}

declare -A qsd_pid=()
# start_qcow2 IMAGE: leaves the file to measure in $TARGET
start_qcow2() {
    local image=$1 point=$T/qsd-${1//\//-}
    : >"$point"
    qemu-storage-daemon \
        --blockdev "driver=qcow2,node-name=disk,file.driver=file,file.filename=$image,file.cache.direct=off" \
        --export "type=fuse,id=export,node-name=disk,mountpoint=$point,writable=on" >"$point.log" 2>&1 &
    later $!
    qsd_pid[$image]=$!
    wait_for "grep -q ' $point fuse' /proc/self/mounts" 20
    TARGET=$point
}
stop_qcow2() {
    kill "${qsd_pid[$1]}"
    wait_for "! alive ${qsd_pid[$1]}" 30
}

# overlay CHAIN DEPTH NAME: an overlay of the same depth as the chain's last one
overlay() {
    local format=qcow2
    [ "$2" -gt 1 ] || format=raw
    qemu-img create -q -f qcow2 -b "$1/$(($2 - 1))" -F "$format" "$1/$3" || fail "qemu-img create $3"
}

# Clones of the disk stand on as many layers as itself, overlays beside the last one on as many as that.
qcow2_depth() {
    local n=$1 i q chain=$T/q/$1 ours theirs owned
    layered_disk "disk-$n" "$n"
    qcow2_chain "$n"
    fresh_clone "disk-$n" "owned-$n"
    overlay "$chain" "$n" owned
    start_qcow2 "$chain/owned"
    owned=$TARGET
    hold "$owned"
    fill "$mnt/owned-$n"
    fill "$owned"
    start_qcow2 "$chain/$n"
    theirs=$TARGET
    ours=$mnt/disk-$n
    hold "$ours"
    hold "$theirs"
    cmp "$ours" "$theirs" >&2 || fail "depth $n: the two do not hold the same bytes"
    warm "$ours"
    for ((i = 1; i <= rounds; i++)); do
        for q in 1 32; do
            read_rate "read-$n-$q" "$ours" "$q"
            read_rate "qcow2-read-$n-$q" "$theirs" "$q"
        done
        overwrite_rate "over-$n" "$mnt/owned-$n"
        overwrite_rate "qcow2-over-$n" "$owned"
        fresh_clone "disk-$n" "new-$n-$i"
        first_write_rate "new-$n" "$mnt/new-$n-$i"
        let_go "$mnt/new-$n-$i"
        overlay "$chain" "$n" "new-$i"
        start_qcow2 "$chain/new-$i"
        hold "$TARGET"
        first_write_rate "qcow2-new-$n" "$TARGET"
        let_go "$TARGET"
        stop_qcow2 "$chain/new-$i"
        rm "$mnt/new-$n-$i" "$chain/new-$i"
    done
    let_all_go
    stop_qcow2 "$chain/owned"
    stop_qcow2 "$chain/$n"
    for q in 1 32; do
        against_qcow2 "cached 4 KiB random read at depth $n, QD$q" "read-$n-$q"
    done
    against_qcow2 "4 KiB random overwrite at depth $n, QD32" "over-$n"
    against_qcow2 "4 KiB first write at depth $n, QD32" "new-$n"
    rm -rf "$chain" "$mnt/owned-$n"
}

against_qcow2() {
    ratio_row qcow2 "$1" IOPS "$(median "$2")" qcow2 "$(median "qcow2-$2")" at-least null
}

part_qcow2() {
    local n
    golden
    mount_now
    for n in 1 10 100; do qcow2_depth "$n"; done
}

# ---- storm

storm_of() { # storm_of COUNT: backing bytes while that many clones are read at once, from cold, in STORM_BYTES
    local i pids=()
    rm -rf "$T/storm-cache"
    # forget the image's pages, so that a miss costs what it does on a fresh host
    dd of="$T/storm-source/golden" oflag=nocache conv=notrunc,fdatasync count=0 status=none
    mount_vd "$T/storm-source" "$T/storm" --cache="$T/storm-cache" --cache-size=2G
    local before after
    before=$(stat_of "$T/storm" backing_read_bytes)
    for ((i = 0; i < $1; i++)); do
        dd if="$T/storm/clone-$i" of=/dev/null bs=64K count=3200 iflag=direct status=none &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || fail "a clone could not be read"; done
    after=$(stat_of "$T/storm" backing_read_bytes)
    STORM_BYTES=$((after - before))
    cmp -n 209715200 "$T/storm/clone-$(($1 - 1))" "$T/storm-golden" >&2 || fail "the last clone has other bytes"
    umount_vd "$T/storm"
}

part_storm() {
    local one
    mkdir "$T/storm-source"
    random_file "$T/storm-golden" 224M 2
    cp "$T/storm-golden" "$T/storm-source/golden"
    mount_vd "$T/storm-source" "$T/storm" --cache="$T/storm-cache" --cache-size=2G
    layers clones "$T/storm-source" golden clone- 64 >/dev/null || fail "64 clones"
    umount_vd "$T/storm"
    storm_of 1
    one=$STORM_BYTES
    say "64 clones at once"
    storm_of 64
    ratio_row storm "64 clones read 200 MiB together: backing bytes" bytes "$STORM_BYTES" "one clone" "$one" at-most 1.05
    rm -rf "$T/storm-source" "$T/storm-golden" "$T/storm-cache"
}

# ---- stall

# stall_rows WHAT FILE: of the stalls in FILE, one line a run
stall_rows() {
    local what=$1 out=$2
    figure stall "$what: worst wait during a snapshot" ms "$(jq -s 'map(.longest_ms.worst) | max' "$out")" 100
    figure stall "$what: a snapshot's longest wait, median" ms "$(jq -s 'map(.longest_ms.median) | add / length' "$out")"
    figure stall "$what: any wait during one, median" ms "$(jq -s 'map(.during_ms.median) | add / length' "$out")"
    figure stall "$what: worst wait between snapshots" ms "$(jq -s 'map(.between_ms.worst // 0) | max' "$out")"
    figure stall "$what: worst wait with no snapshot" ms "$(jq -s 'map(.alone_ms.worst) | max' "$out")"
    figure stall "$what: snapshot command, median" ms "$(jq -s 'map(.snapshot_ms.median) | add / length' "$out")"
    figure stall "$what: snapshot command, worst" ms "$(jq -s 'map(.snapshot_ms.worst) | max' "$out")"
}

# stall_of DISK SNAPSHOTS OPTIONS...
stall_of() {
    local disk=$1 count=$2
    shift 2
    say "stalls of $disk"
    "$VD_BUILD/bench/stall" --snapshots="$count" "$@" "$src" "$mnt" "$disk" || fail "stall on $disk"
}

# disk_of_extents NAME: a clone whose live layer has that many extents; the mount is gone then
disk_of_extents() {
    [ ! -e "$src/$1" ] || return 0
    local size=$(((extents * 2 + 1024) * 4096))
    mount_now
    if [ ! -e "$mnt/large" ]; then
        truncate -s "$size" "$mnt/large"
    fi
    layers clones "$src" large "$1-" 1 >/dev/null || fail "no clone of a large disk"
    mv "$mnt/$1-0" "$mnt/$1"
    unmount_now
    say "making $extents extents"
    layers extents "$src" "$1" "$extents" >"$T/made-$1.json" || fail "no extents"
}

part_stall() {
    local i
    golden
    mount_now
    fill "$mnt/stalled"
    stall_of stalled 25 >"$T/stall-plain"
    stall_rows "plain disk" "$T/stall-plain"
    layered_disk deep "$depth"
    mount_now
    stall_of deep 25 --prefix="stall-$$" >"$T/stall-deep"
    stall_rows "depth $depth" "$T/stall-deep"
    # Only the first snapshot freezes the many extents, so there are several such disks.
    for i in 1 2 3 4; do
        disk_of_extents "extents-$i"
        mount_now
        stall_of "extents-$i" 6 --interval-ms=1000 >>"$T/stall-extents"
        unmount_now
    done
    stall_rows "$extents extents" "$T/stall-extents"
    rm -f "$mnt/stalled"
}

# ---- scale

rss_of() { # anonymous memory of the daemon in bytes
    awk '/^RssAnon/ {print $2 * 1024}' "/proc/$(vd_pid "$mnt")/status"
}

fds_of() {
    find "/proc/$(vd_pid "$mnt")/fd" -mindepth 1 | wc -l
}

# opened WHAT PREFIX COUNT: opens PREFIX0, ... in a mount just started, and says what the daemon has then
opened() {
    local what=$1 prefix=$2 count=$3 rss fds pid
    unmount_now
    mount_now
    rss=$(rss_of)
    fds=$(fds_of)
    rm -f "$T/end" "$T/opened.json"
    mkfifo "$T/end"
    layers open "$prefix" "$count" <"$T/end" >"$T/opened.json" &
    pid=$!
    exec {end}>"$T/end"
    wait_for "[ -s '$T/opened.json' ] || ! alive $pid" 600
    [ -s "$T/opened.json" ] || fail "$what could not be opened"
    figure scale "$what: open, median" ms "$(jq .open_ms.median "$T/opened.json")"
    [ "$count" -eq 1 ] || figure scale "$what: open, all" s "$(jq .seconds "$T/opened.json")"
    figure scale "$what: RssAnon more" bytes "$(($(rss_of) - rss))"
    figure scale "$what: descriptors more" "" "$(($(fds_of) - fds))"
    exec {end}>&-
    wait "$pid"
}

part_scale() {
    golden
    mount_now
    layered_disk deep "$depth"
    [ -e "$mnt/deep0" ] || mv "$mnt/deep" "$mnt/deep0"
    figure scale "a snapshot on the way to depth $depth, median" ms "$(jq .snapshot_ms.median "$T/made-deep.json")"
    figure scale "a snapshot on the way to depth $depth, worst" ms "$(jq .snapshot_ms.worst "$T/made-deep.json")"
    opened "depth $depth" "$mnt/deep" 1
    mv "$mnt/deep0" "$mnt/deep"

    disk_of_extents many0
    figure scale "making $extents extents by the library" s "$(jq .seconds "$T/made-many0.json")"
    opened "$extents extents" "$mnt/many" 1

    unmount_now
    mount_now
    layered_disk base 1
    say "making $nclones clones"
    mkdir "$mnt/clones"
    layers clones "$src" base clones/c "$nclones" >"$T/made-clones.json" || fail "$nclones clones"
    figure scale "$nclones clones: one, median" ms "$(jq .clone_ms.median "$T/made-clones.json")"
    figure scale "$nclones clones: one of the first tenth" ms "$(jq .first_tenth_ms.median "$T/made-clones.json")"
    figure scale "$nclones clones: one of the last tenth" ms "$(jq .last_tenth_ms.median "$T/made-clones.json")"
    opened "$nclones clones" "$mnt/clones/c" "$nclones"
}

# ---- all of it

for part in "${parts[@]}"; do "part_$part"; done
let_all_go
unmount_now
say ""
[ ! -t 2 ] || printf '\r' >&2
if [ "$json" = yes ]; then
    jq -s . "$T/rows"
    exit 0
fi
echo "medians of $rounds interleaved rounds of $seconds s; images of $mib MiB"
line='%-6s %-54s %16s  %-17s %10s %7s %8s  %s\n'
# shellcheck disable=SC2059
printf "$line" NAME ROW VDISKFS PEER "THE PEER" RATIO BUDGET REACHED
jq -r 'def shown: if .unit == "bytes" then "\(.ours / 1048576 * 100 | round / 100) MiB" else "\(.ours) \(.unit)" end;
       [.name, .row, shown, .peer_name // "-", .peer // "-", .ratio // "-",
        if .budget == null then "-" else (if .sense == "at-least" then ">= " else "<= " end) + "\(.budget)" end,
        if .reached == null then "-" elif .reached then "yes" else "no" end] | @tsv' "$T/rows" |
    while IFS=$'\t' read -r name what ours peer theirs ratio budget reached; do
        # shellcheck disable=SC2059
        printf "$line" "$name" "$what" "$ours" "$peer" "$theirs" "$ratio" "$budget" "$reached"
    done
