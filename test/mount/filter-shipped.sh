#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The filters that come with vdiskfs, each doing what its manual page says, seen from a client of the mount: trace, stats,
# delay, error, throttle, protect.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/filter-lib.sh"
A=$MNT/a.img

# rd BLOCK [COUNT [BYTES]], wr ...: one request each of 4 KiB or BYTES, past every page cache
rd() {
    dd if="$A" bs="${3:-4k}" skip="$1" count="${2:-1}" iflag=direct of=/dev/null status=none
}

wr() {
    dd if="$T/new" bs="${3:-4k}" seek="$1" count="${2:-1}" iflag=fullblock oflag=direct conv=notrunc,nocreat status=none of="$A"
}

flush() {
    sync "$A"
}

# fallocate(1) flushes as it closes
discard() {
    fallocate --punch-hole --offset "$1" --length "$2" "$A"
}

zero() {
    fallocate --zero-range --keep-size --offset "$1" --length "$2" "$A"
}

# blocks_are WHAT FILE BLOCK [COUNT]: those blocks of the disk are those of FILE
blocks_are() {
    cmp <(dd if="$A" bs=4k skip="$3" count="${4:-1}" iflag=direct status=none) \
        <(dd if="$2" bs=4k skip="$3" count="${4:-1}" status=none) || fail "$1"
}

now_ms() {
    date +%s%3N
}

random_file "$SRC/a.img" 4M 1
random_file "$T/new" 4M 2
cp "$SRC/a.img" "$T/old"
mount_vd "$SRC" "$MNT"
exec 5<>"$A" # open throughout, so that counters stay

# ---- trace

attach "$A" trace "file=$T/full.csv"
began=$(date +%s)
wr 3 && rd 3 && rd 0 1 1M && flush && discard 65536 12288 && zero 131072 4096
detach "$A" trace
assert_eq "trace: columns" "$(head -n 1 "$T/full.csv")" time,id,op,offset,length,result,latency_us
assert_eq "trace: requests" "$(sed 1d "$T/full.csv" | cut -d, -f3-6 | tr '\n' ' ')" \
    "write,12288,4096,4096 read,12288,4096,4096 read,0,1048576,1048576 flush,0,0,0 discard,65536,12288,0 flush,0,0,0 zero,131072,4096,0 flush,0,0,0 "
awk -F, -v began="$began" 'NR > 1 && ($1 < began || $1 > began + 100 || $7 <= 0 || $7 > 1e7) {exit 1}' "$T/full.csv" ||
    fail "trace: times: $(cat "$T/full.csv")"
assert_eq "trace: each has an id of its own" "$(sed 1d "$T/full.csv" | cut -d, -f2 | sort -u | wc -l)" \
    "$(sed 1d "$T/full.csv" | wc -l)"
attach "$A" trace "file=$T/replay.csv" format=replay
for i in 1 2 3 1 2 3; do rd $i; done
wr 7 2 && flush
rd 0 1 64k
detach "$A" trace
assert_eq "trace for replay" "$(tr '\n' ' ' <"$T/replay.csv")" \
    "op,offset,length r,4096,4096 r,8192,4096 r,12288,4096 r,4096,4096 r,8192,4096 r,12288,4096 w,28672,4096 w,32768,4096 r,0,65536 "
"$VD_BUILD/bench/replay" --slots=100 --slot=4K "$T/replay.csv" >"$T/replayed" || fail "replay does not read it"
# 8 slots one by one, then 16 at once; 5 of them touched for the first time before
assert_eq "replayed" "$(jq -c '.[0] | [.slots, .requests, .misses]' "$T/replayed")" '[100,24,16]'
refused "trace: a file of another format" "$A" "not a trace in this format" filter attach "$A" trace "file=$T/replay.csv"
attach "$A" trace "file=$T/replay.csv" format=replay
rd 1
detach "$A" trace
assert_eq "trace: appended" "$(wc -l <"$T/replay.csv")" 11
ok "trace"

# ---- stats

attach "$A" stats "file=$T/stats.json"
wr 0 20 && rd 0 10 && rd 0 3 64k && flush && discard 65536 8192 && zero 131072 16384
attach "$A" protect ranges=0-4K
assert_fails "a write that fails" wr 0
detach "$A" protect # it stands below, having come later
doc=$(filter_is "$A" stats .status)
assert_eq "stats: requests" "$(jq -c '.ops | [.read, .write, .flush, .discard, .zero | .requests]' <<<"$doc")" '[13,21,3,1,1]'
assert_eq "stats: bytes" "$(jq -c '.ops | [.read, .write, .flush, .discard, .zero | .bytes]' <<<"$doc")" \
    "[$((10 * 4096 + 3 * 65536)),$((20 * 4096)),0,8192,16384]"
assert_eq "stats: errors" "$(jq -c '.ops | [.read, .write, .flush, .discard, .zero | .errors]' <<<"$doc")" '[0,1,0,0,0]'
assert_eq "stats: sizes" "$(jq -c '.ops | [.read, .write, .flush, .discard, .zero | .size.histogram]' <<<"$doc")" \
    '[[[4096,10],[65536,3]],[[4096,21]],[],[[8192,1]],[[16384,1]]]'
jq -e '.ops[] | ([.latency_us.histogram[][1]] | add) == .requests' >/dev/null <<<"$doc" || fail "stats: latencies: $doc"
jq -e '.ops[].latency_us | .min > 0 and .min <= .mean and .mean <= .max and .min <= .p50 and .p50 <= .p99 and .p99 <= .max' \
    <<<"$doc" | grep -q false && fail "stats: latencies: $doc"
# each is below the bound of the bucket that it is in
jq -e '.ops.read.latency_us | ([.histogram[][0]] | max) > .max' >/dev/null <<<"$doc" || fail "stats: buckets: $doc"
assert_eq "requests, as the host counts" "$(filter_is "$A" stats '"\(.requests) \(.errors)"')" "39 0"
detach "$A" stats
assert_eq "stats: the file" "$(jq -cS .ops "$T/stats.json")" "$(jq -cS .ops <<<"$doc")"
ok "stats"

# ---- delay

attach "$A" delay read=300ms flush=200ms
began=$(now_ms)
rd 0 2
assert_ge "delay: two reads, one after the other, took ms" $(($(now_ms) - began)) 600
wr 0
assert_eq "delay: a write is not held" "$(filter_is "$A" delay .status.delayed)" 2
began=$(now_ms)
flush
assert_ge "delay: a flush took ms" $(($(now_ms) - began)) 200
assert_eq "delay: status" "$(filter_is "$A" delay '.status | [.delayed, .delay_us.total] | join(" ")')" "3 800000"
assert_eq "delay: deferred, as the host counts" "$(filter_is "$A" delay .deferred)" 3
detach "$A" delay
ok "delay"

# ---- error

attach "$A" error rate=1
eio "error: a read" rd 0
eio "error: a write" wr 0
eio "error: a flush" flush
eio "error: a discard" discard 0 4096
eio "error: a zero" zero 0 4096
assert_eq "error: status" "$(filter_is "$A" error '.status | "\(.armed) \(.seen) \(.injected) \(.ops.zero.injected)"')" \
    "true 5 5 1"
assert_eq "error: as the host counts" "$(filter_is "$A" error '"\(.requests) \(.errors)"')" "5 5"
detach "$A" error

attach "$A" error nth=3 ops=write,flush error=ENOSPC
rd 0 10 && wr 0 && flush
assert_fails "error: the third" wr 1
grep -q 'No space left' "$T/fails.out" || fail "error=ENOSPC: $(cat "$T/fails.out")"
wr 1 5 && flush && rd 1 5
detach "$A" error
attach "$A" error nth=3 from-nth=yes ops=read
rd 0 2
for i in 1 2 3; do eio "error: from the third on" rd 0; done
wr 0 && flush
detach "$A" error

# before: not done; after: done, and said to have failed
cp "$A" "$T/old"
cmp -s "$T/old" "$T/new" && fail "nothing could be told apart"
attach "$A" error nth=1 ops=write
eio "error: before" wr 200
detach "$A" error
blocks_are "error: before: it was written all the same" "$T/old" 200
attach "$A" error nth=1 ops=write when=after
eio "error: after" dd if="$T/new" bs=4k skip=200 seek=200 count=1 oflag=direct conv=notrunc,nocreat of="$A"
detach "$A" error
blocks_are "error: after: it was not written" "$T/new" 200

# chance, and the same again with the same seed
failures() {
    local i n=""
    attach "$A" error read=30% seed=7
    for i in $(seq 60); do
        if rd 0 2>/dev/null; then n+=.; else n+=x; fi
    done
    assert_eq "error: injected" "$(filter_is "$A" error .status.injected)" "$(tr -d . <<<"$n" | tr -d '\n' | wc -c)"
    detach "$A" error
    CHANCE=$n
}
failures
first=$CHANCE
failures
assert_eq "error: the same seed" "$CHANCE" "$first"
hits=$(tr -d . <<<"$first" | tr -d '\n' | wc -c)
[ "$hits" -gt 6 ] && [ "$hits" -lt 36 ] || fail "error: $hits of 60, at 30 %"

attach "$A" error rate=1 "file=$T/trigger"
assert_eq "error: armed" "$(filter_is "$A" error .status.armed)" false
rd 0 3
touch "$T/trigger"
assert_eq "error: armed" "$(filter_is "$A" error .status.armed)" true
eio "error: armed" rd 0
rm "$T/trigger"
assert_eq "error: armed" "$(filter_is "$A" error .status.armed)" false
rd 0
touch "$T/trigger"
wait_for "! rd 0 2>/dev/null" 5 # without asking: it looks itself
detach "$A" error
ok "error"

# ---- protect

attach "$A" protect ranges=1M+64K,3M-3080K
cp "$A" "$T/old"
for at in 256 271 768 769; do
    assert_fails "protect: a write of block $at" wr $at
    grep -q 'Operation not permitted' "$T/fails.out" || fail "protect: $(cat "$T/fails.out")"
done
assert_fails "protect: a write that ends in the range" wr 1 1 1020k
rd 256 16 || fail "protect: a read"
assert_fails "protect: one across its beginning" dd if="$T/new" bs=8k seek=255 count=1 oflag=direct,seek_bytes \
    seek=$((255 * 4096)) conv=notrunc,nocreat of="$A"
assert_fails "protect: a discard" discard $((1 << 20)) 4096
assert_fails "protect: a discard of everything" discard 0 $((4 << 20))
assert_fails "protect: a zero" zero $(((1 << 20) + 61440)) 8192
assert_fails "protect: a truncation" truncate -s 3M "$A"
assert_fails "protect: a truncation in the middle of a range" truncate -s $(((3 << 20) + 4096)) "$A"
assert_eq "protect: size" "$(file_bytes "$A")" $((4 << 20))
assert_same "protect: not a byte has changed" "$A" "$T/old"
assert_eq "protect: denied" "$(filter_is "$A" protect .status.denied)" 11
# by QEMU, as a guest would
for command in "write -P 0xaa 1M 4k" "write -z -u 1M 4k" "discard 1M 4k"; do
    assert_fails "protect: qemu-io: $command" qemu-io -f raw -t none -d unmap -c "$command" "$A"
    grep -q 'failed: Operation not permitted' "$T/fails.out" || fail "protect: $command: $(cat "$T/fails.out")"
done
assert_same "protect: not a byte has changed" "$A" "$T/old"
qemu-io -f raw -t none -c "write -P 0xaa 1020k 4k" -c "write -P 0xbb 1088k 4k" -c "write -P 0xcc 3080k 4k" \
    -c "read -P 0xaa 1020k 4k" -c "read -P 0xbb 1088k 4k" -c "read -P 0xcc 3080k 4k" "$A" >"$T/qemu-io" 2>&1 ||
    fail "protect: beside the ranges: $(cat "$T/qemu-io")"
! grep -q failed "$T/qemu-io" || fail "protect: beside the ranges: $(cat "$T/qemu-io")"
truncate -s $(((3 << 20) + 8192)) "$A" || fail "protect: a cut behind the ranges"
truncate -s 4M "$A" || fail "protect: growing"
detach "$A" protect
wr 256 && wr 768
attach "$A" protect ranges=all error=EROFS
assert_fails "protect: all" wr 5
grep -q 'Read-only file system' "$T/fails.out" || fail "protect: error=EROFS: $(cat "$T/fails.out")"
assert_fails "protect: behind the end" dd if="$T/new" bs=4k seek=4M oflag=seek_bytes count=1 conv=notrunc of="$A"
detach "$A" protect
exec 5<&-
ok "protect"

# ---- throttle: 10 s, four disks at once

# throttled NAME LIMIT FIO-ARGS...: begins fio on a disk of its own, with that limit
throttled() {
    local name=$1 limit=$2
    shift 2
    truncate -s 8M "$MNT/$name.img"
    dd if="$T/new" of="$MNT/$name.img" bs=1M conv=notrunc status=none
    attach "$MNT/$name.img" throttle "$limit"
    (cd "$T" && exec fio --name="$name" --filename="$MNT/$name.img" --size=8M --direct=1 --ioengine=libaio --time_based \
        --runtime=10 --allow_file_create=0 --output-format=json --output="$T/$name.json" "$@") &
    THROTTLED+=($!)
    later $!
}
THROTTLED=()

# within WHAT NAME JQ LIMIT: 5 % at most off the limit, over the time that it ran
within() {
    local found
    found=$(jq ".jobs[0] | $3 / ((.read.runtime + .write.runtime) / 1000) | floor" "$T/$2.json")
    assert_ge "throttle: $1" "$found" $(($4 * 95 / 100))
    assert_lt "throttle: $1" "$found" $(($4 * 105 / 100 + 1))
    echo "throttle: $1: $found of $4"
}

throttled iops-1 iops-total=300 --rw=randread --bs=4k --iodepth=1
throttled iops-32 iops-write=2000 --rw=randwrite --bs=4k --iodepth=32
throttled bps-1 bps-write=5M --rw=write --bs=64k --iodepth=1
throttled bps-32 bps-total=20M --rw=randread --bs=64k --iodepth=32
for pid in "${THROTTLED[@]}"; do
    wait "$pid" || fail "fio"
done
within "requests a second, one at a time" iops-1 .read.total_ios 300
within "requests a second, 32 at a time" iops-32 .write.total_ios 2000
within "bytes a second, one at a time" bps-1 .write.io_bytes $((5 << 20))
within "bytes a second, 32 at a time" bps-32 .read.io_bytes $((20 << 20))
# what is not limited is not held
assert_eq "limits" "$(filter_is "$MNT/iops-32.img" throttle '.config | keys | join(" ")')" iops-write
exec 5<>"$MNT/iops-32.img"
dd if="$MNT/iops-32.img" of=/dev/null bs=4k count=2000 iflag=direct status=none
assert_eq "throttle: reads where writes are limited" "$(filter_is "$MNT/iops-32.img" throttle .status.delayed)" 0
exec 5<&-
umount_vd "$MNT"
! grep -Eq 'never answered|quarantined|held on to|error:' "$(vd_log "$MNT")" || fail "the log has errors"
ok "throttle"
