#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Filters come and go on a disk that fio writes and verifies all the time, 16 requests deep, while it is snapshotted,
# asked for its filters, and opened and closed by others. Nobody meets an error, and no request is lost. $1: rounds (10).
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/filter-lib.sh"
rounds=${1:-10}
A=$MNT/a.img

# again COMMAND...: does it until $T/stop is there; $T/again.failed says what failed
again() {
    (
        trap - EXIT
        exec 5>&-
        while [ ! -e "$T/stop" ]; do
            "$@" >/dev/null 2>"$T/again-$1.err" || {
                echo "$*: $(cat "$T/again-$1.err")" >>"$T/again.failed"
                exit 1
            }
        done
    ) &
    AGAIN+=($!)
    later $!
}
AGAIN=()

# come_and_go NAME [KEY=VALUE...]: attached and detached again and again
come_and_go() {
    vdisk filter attach "$A" "$@" && vdisk filter detach "$A" "$1"
}

# a snapshot may come between its steps, more than once
explain() {
    vdisk --json explain "$A" 1M 2>"$T/explain" || grep 'try again' "$T/explain"
}

look() {
    vdisk --filter-dir="$FILTERS" --json filter ls "$A" | jq -e '[.filters[] | .state == "active"] | all' &&
        vdisk --json info "$A" && explain
}

open_and_read() {
    dd if="$A" of=/dev/null bs=64k count=8 skip=3 status=none && head -c 100000 "$A"
}

truncate -s 8M "$SRC/a.img"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS" --cache-size=16M
exec 5<>"$A"
fio_begin one "$A" --size=4M --bs=4k-64k --blockalign=4k --serialize_overlap=1
fio_begin two "$A" --offset=4M --size=4M
again come_and_go pass1
again look
again open_and_read
snapshots=0
for ((i = 0; i < rounds; i++)); do
    attach "$A" delay all=3ms jitter=50% # so that requests are held whenever anything changes
    attach "$A" throttle iops-total=3000 bps-total=60M
    [ $((i % 2)) -ne 0 ] || { vdisk snapshot "$A" "s$i" || fail "snapshot s$i"; }
    attach "$A" stats
    attach "$A" trace "file=$T/trace-$((i % 3)).csv"
    attach "$A" protect ranges=1G+4K
    attach "$A" error nth=1000000000
    wait_for "[ \"\$(filter_is '$A' stats .requests)\" -ge 1 ]" 10
    [ $((i % 2)) -ne 1 ] || { vdisk snapshot "$A" "s$i" || fail "snapshot s$i"; }
    snapshots=$((snapshots + 1))
    for name in throttle protect trace delay stats error; do
        detach "$A" "$name"
    done
    fio_goes_on one
    fio_goes_on two
    [ ! -e "$T/again.failed" ] || fail "$(cat "$T/again.failed")"
done
touch "$T/stop"
for pid in "${AGAIN[@]}"; do
    wait_for "! alive $pid" 20
    wait "$pid" || fail "$(cat "$T/again.failed")"
done
fio_end one
fio_end two
assert_eq "filters" "$(vdisk --json filter ls "$A" | jq -c .)" '{"filters":[]}'
assert_eq "snapshots" "$(vdisk --json snapshots "$A" | jq '.snapshots | length')" "$snapshots"
for log in "$T"/trace-?.csv; do
    assert_ge "lines of ${log##*/}" "$(wc -l <"$log")" 2
    assert_eq "headers of ${log##*/}" "$(grep -c '^time,' "$log")" 1
    ! grep -Evq '^[0-9.]+,[0-9]+,[a-z]+,[0-9]+,[0-9]+,[0-9]+,[0-9.]+$|^time,' "$log" ||
        fail "torn, or failed: $(grep -Ev '^[0-9.]+,[0-9]+,[a-z]+,[0-9]+,[0-9]+,[0-9]+,[0-9.]+$|^time,' "$log" | head -n 3)"
done
cp "$A" "$T/expect"
exec 5<&-
umount_vd "$MNT"
! grep -Eq 'never answered|quarantined|held on to|error:' "$(vd_log "$MNT")" || fail "the log has errors"
status "check" 0 vdisk check "$SRC"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
assert_same "after a remount" "$A" "$T/expect"
umount_vd "$MNT"
ok "$rounds rounds of seven filters and $snapshots snapshots under fio, without an error"

# ---- another mount attaches and detaches, under readers that are many more than the disk has threads

read_deep() {
    fio --name=deep --filename="$A" --rw=randread --bs=4k --size=8M --numjobs=4 --ioengine=libaio --iodepth=32 --direct=1 \
        --allow_file_create=0 --output="$T/fio-deep.log" || {
        grep error "$T/fio-deep.log" >&2
        return 1
    }
}

OTHER=$T/other
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS" --cache-mode=off
mount_vd "$SRC" "$OTHER" --filter-dir="$FILTERS" --cache="$T/cache-other"
rm "$T/stop"
AGAIN=()
again read_deep
for ((i = 0; i < 2 * rounds; i++)); do
    vdisk filter attach "$OTHER/a.img" stats || fail "attach by the other mount"
    wait_for "[ \"\$(filter_is '$A' stats .requests)\" -ge 100 ]" 10
    vdisk filter detach "$OTHER/a.img" stats || fail "detach by the other mount"
    [ ! -e "$T/again.failed" ] || fail "$(cat "$T/again.failed")"
done
touch "$T/stop"
wait_for "! alive ${AGAIN[0]}" 40
wait "${AGAIN[0]}" || fail "$(cat "$T/again.failed")"
assert_same "through the other mount" "$OTHER/a.img" "$T/expect"
umount_vd "$OTHER"
umount_vd "$MNT"
! grep -q 'error:' "$(vd_log "$MNT")" || fail "the log has errors"
ok "$((2 * rounds)) changes by another mount, under 128 readers"
