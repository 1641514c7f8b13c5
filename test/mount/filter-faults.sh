#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A filter that faults: its request fails with EIO and it is quarantined on that disk, which goes on without it or, where it
# is required, refuses. Meanwhile fio verifies another disk of the mount, and the same disk beside the byte that faults.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/filter-lib.sh"
A=$MNT/a.img
AT=$((3 << 20))

# touch_at OP: makes one request of OP that touches the byte AT, through the descriptor 5
touch_at() {
    case $1 in
    read) dd bs=4k skip=$((AT / 4096)) count=1 iflag=direct of=/dev/null status=none <"$A" ;;
    write) dd if="$T/block" bs=4k seek=$((AT / 4096)) count=1 oflag=direct conv=notrunc,nocreat status=none of="$A" ;;
    discard) fallocate --punch-hole --offset $((AT - 4096)) --length 16384 "$A" ;;
    zero) fallocate --zero-range --keep-size --offset $AT --length 4096 "$A" ;;
    esac
}

random_file "$T/block" 4096 9
random_file "$SRC/a.img" 4M 1
random_file "$SRC/b.img" 4M 2
cp "$SRC/a.img" "$T/expect"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
pid=$(vd_pid "$MNT")
exec 5<>"$A" 6<>"$MNT/b.img"
attach "$MNT/b.img" faulty at=100G # the same library on another disk
fio_begin b "$MNT/b.img" --size=2M
fio_begin a "$A" --size=2M

n=0
for how in null divide overflow frame illegal nowhere; do
    case $how in
    null) words="Segmentation fault at address 0x0" ;;
    divide) words="Floating point exception" ;;
    overflow | frame) words="its stack overflowed" ;;
    illegal) words="Illegal instruction" ;;
    nowhere) words="it called address 0x0, where there is no code," ;;
    esac
    for where in submit done; do
        ops=(read write zero discard)
        op=${ops[(n + n++ / 4) % 4]}
        what="$how in $where of a $op"
        attach "$A" faulty how=$how where=$where at=$AT op=$op
        touch_at $([ $op = read ] && echo write || echo read) || fail "$what: another request"
        assert_eq "$what: state before" "$(filter_is "$A" faulty .state)" active
        eio "$what" touch_at $op
        assert_eq "$what: state" "$(filter_is "$A" faulty .state)" quarantined
        assert_eq "$what: faults" "$(filter_is "$A" faulty .faults)" 1
        filter_is "$A" faulty .why | grep -q "$words in $where" || fail "$what: why: $(filter_is "$A" faulty .why)"
        logs "$MNT" "a.img: filter faulty is quarantined: $words in $where.* goes on without it"
        touch_at $op || fail "$what: the same request, without the filter"
        touch_at read || fail "$what: the disk should go on"
        fio_goes_on a
        fio_goes_on b
        detach "$A" faulty
    done
done
ok "each kind of fault fails its own request, and its disk goes on"

for how in overflow; do
    for where in submit done; do
        attach "$A" faulty how=$how where=$where at=$AT required=yes
        fio_end a # it would be refused, too
        eio "$how, required" touch_at read
        eio "$how, required: again" touch_at read
        eio "$how, required: a write elsewhere" dd if="$T/block" bs=4k count=1 oflag=dsync conv=notrunc of="$A"
        eio "$how, required: by a file that was open" dd bs=4k count=1 <&5
        eio "$how, required: an open" cat "$A"
        logs "$MNT" "a.img: filter faulty is quarantined: .*refuses I/O until it is detached, or the disk opened anew"
        fio_goes_on b
        detach "$A" faulty
        touch_at read || fail "$how, required: after the detach"
        fio_begin a "$A" --size=2M
    done
done
fio_end a
attach "$A" faulty at=$AT required=yes
eio "required" touch_at read
exec 5<&-
# the last close of all makes its next open a new one
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
exec 5<>"$A"
assert_eq "state once it is opened anew" "$(filter_is "$A" faulty .state)" active
detach "$A" faulty
ok "with a required one it refuses until that is detached, or it is opened anew"

# faults elsewhere
attach "$A" faulty how=divide where=event
refused "a snapshot" "$A" "filter faulty: Floating point exception in event" snapshot "$A" s1
assert_eq "state" "$(filter_is "$A" faulty .state)" quarantined
vdisk snapshot "$A" s1
detach "$A" faulty
for how in null frame nowhere; do
    refused "$how in attach" "$A" " in attach" filter attach "$A" faulty how=$how where=attach
done
refused "in the command's own process" "$SRC/c.img" " in attach" \
    --filter-dir="$FILTERS" filter attach "$(cp "$T/expect" "$SRC/c.img"; echo "$SRC/c.img")" faulty where=attach
assert_eq "filters" "$(vdisk --json filter ls "$A" | jq -c .)" '{"filters":[]}'
ok "faults in events and in attach"

# requests that the filter had passed, and that are below when it faults, it is not told of: where it is required they fail
for required in no yes; do
    attach "$A" faulty at=$AT required=$required
    attach "$A" delay read=1s
    dd if="$A" bs=4k count=1 iflag=direct of=/dev/null status=none 2>"$T/below" &
    below=$!
    wait_for "[ \"\$(filter_is '$A' delay .deferred)\" = 1 ]" 5
    eio "a fault above others" touch_at read
    failed=no
    wait $below || failed=yes
    assert_eq "a request below, with required=$required, failed" $failed $required
    detach "$A" delay
    detach "$A" faulty
done
ok "requests that are below a filter when it faults"

# many requests at once meet the fault: each has one answer, and one fault is counted, or a few that were under way
attach "$A" stats
attach "$A" faulty how=null where=done at=$AT
readers=()
for i in $(seq 12); do
    dd if="$A" bs=1M skip=3 count=1 iflag=direct of=/dev/null status=none 2>"$T/reader-$i" &
    readers+=($!)
done
failed=0
for p in "${readers[@]}"; do
    wait "$p" || failed=$((failed + 1))
done
assert_ge "readers that failed" $failed 1
assert_ge "faults" $failed "$(filter_is "$A" faulty .faults)"
assert_eq "state" "$(filter_is "$A" faulty .state)" quarantined
assert_eq "requests that the filter above has seen the end of" \
    "$(filter_is "$A" stats '.status.ops.read.requests')" "$(filter_is "$A" stats .requests)"
detach "$A" faulty
detach "$A" stats
fio_end b
assert_eq "the filter on the other disk" "$(filter_is "$MNT/b.img" faulty .state)" active
alive "$pid" || fail "the daemon died"
exec 5<&- 6<&-
umount_vd "$MNT"
! grep -q 'never answered' "$(vd_log "$MNT")" || fail "requests were lost"
ok "the daemon lives, and the other disk never noticed"
