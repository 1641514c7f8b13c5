#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Two mounts of one source, each with a cache of its own: both read, one writes, the other is refused with
# a sentence that names host and pid, and nobody reads anything stale.
. "$(dirname "$0")/lib.sh"
A=$T/a
B=$T/b

owner_of() {
    vdisk --json owner "$1" | jq -r "$2"
}

random_file "$SRC/d.img" 4M 1
cp "$SRC/d.img" "$T/expect"
mount_vd "$SRC" "$A" --cache="$T/ca" --host-name=hosta
mount_vd "$SRC" "$B" --cache="$T/cb" --host-name=hosta
exec 5<"$A/d.img" 6<"$B/d.img" # open, so that both are attached
assert_same "A reads" "$A/d.img" "$T/expect"
assert_same "B reads" "$B/d.img" "$T/expect"
assert_eq "A's state" "$(owner_of "$A/d.img" .state)" shared
reads_backing "$B" cmp "$B/d.img" "$T/expect"
assert_eq "B's reread comes from its cache" "$BACKING_BYTES" 0
ok "both read and cache"

# A writes: B gives up at once, reads past its cache, and sees the new bytes
exec 7<>"$A/d.img"
printf new-bytes | dd of="$A/d.img" bs=1 seek=5000 conv=notrunc status=none
printf new-bytes | dd of="$T/expect" bs=1 seek=5000 conv=notrunc status=none
assert_eq "A's state" "$(owner_of "$A/d.img" .state)" exclusive
assert_eq "A's pid" "$(owner_of "$A/d.img" .pid)" "$(vd_pid "$A")"
assert_eq "the host" "$(owner_of "$A/d.img" .host)" hosta
assert_same "B reads what A wrote" "$B/d.img" "$T/expect"
ok "a shared holder gives up when it is asked"

# B wants to write: refused while A is in use
assert_fails "B's write" dd if=/dev/zero of="$B/d.img" bs=512 count=1 conv=notrunc
wait_for "grep -q 'd.img: refused to write.*hosta.*pid $(vd_pid "$A")' '$(vd_log "$B")'" 30
assert_fails "B's truncate" truncate -s 1M "$B/d.img"
assert_same "nothing of it is in the source" "$SRC/d.img" "$T/expect"
ok "a second writer is refused, naming host and pid"

# A lets go (last close, detach): B may write, and A notices
exec 5<&- 7<&-
wait_for "[ \"\$(owner_of '$SRC/d.img' .state)\" = none ]" 10
printf from-b | dd of="$B/d.img" bs=1 seek=9000 conv=notrunc status=none
printf from-b | dd of="$T/expect" bs=1 seek=9000 conv=notrunc status=none
exec 6<&-
wait_for "[ \"\$(owner_of '$SRC/d.img' .state)\" = none ]" 10
assert_same "A reads what B wrote" "$A/d.img" "$T/expect"
assert_same "B reads what B wrote" "$B/d.img" "$T/expect"
ok "the disk changes hands when its owner closes it"

# a file that A opened when it was too small to be a disk, and that grew: A writes it past the disk that it is for B
exec 5<>"$A/grown"
random_file "$T/grown" 2M 2
dd if="$T/grown" of="$A/grown" bs=1M conv=notrunc status=none
exec 6<"$B/grown"
assert_same "B reads what grew" "$B/grown" "$T/grown"
printf grown | dd of="$A/grown" bs=1 conv=notrunc status=none
printf grown | dd of="$T/grown" bs=1 conv=notrunc status=none
assert_same "B reads what A wrote past the disk" "$B/grown" "$T/grown"
exec 5<&- 6<&-
ok "nobody caches a file that is written past its disk"

# an owner that is killed: the kernel frees its lock, its record says nothing any more
exec 7<>"$A/d.img"
printf killed | dd of="$A/d.img" bs=1 seek=100 conv=notrunc,fsync status=none
printf killed | dd of="$T/expect" bs=1 seek=100 conv=notrunc status=none
kill -9 "$(vd_pid "$A")"
await_vd "$A"
exec 7<&-
umount -l "$A"
assert_eq "the dead owner's state" "$(owner_of "$SRC/d.img" .state)" none
printf after-kill | dd of="$B/d.img" bs=1 seek=200 conv=notrunc,fsync status=none
printf after-kill | dd of="$T/expect" bs=1 seek=200 conv=notrunc status=none
assert_same "B after the owner was killed" "$B/d.img" "$T/expect"
mount_vd "$SRC" "$A" --cache="$T/ca" --host-name=hosta
assert_same "A, with the cache of the killed mount" "$A/d.img" "$T/expect"
ok "a killed owner blocks nobody, and its cache is not believed"
umount_vd "$A"
umount_vd "$B"

# --own=open
mount_vd "$SRC" "$A" --cache="$T/ca" --own=open
mount_vd "$SRC" "$B" --cache="$T/cb" --own=open
exec 7<>"$A/d.img"
assert_fails "a second open for writing" bash -c "exec 8<>'$B/d.img'"
cmp "$B/d.img" "$T/expect"
exec 7<&-
wait_for "[ \"\$(owner_of '$SRC/d.img' .state)\" = none ]" 10
(exec 8<>"$B/d.img") || fail "open for writing after the owner closed"
umount_vd "$A"
umount_vd "$B"
ok "--own=open"

# one cache directory, two mounts
mount_vd "$SRC" "$A" --cache="$T/ca"
start_vd "$SRC" "$B" --cache="$T/ca"
await_vd "$B"
assert_eq "exit status of a mount with a cache in use" "$VD_STATUS" 1
grep -q "$(vd_pid "$A")" "$(vd_log "$B")" || fail "the holder's pid is not named: $(cat "$(vd_log "$B")")"
# unmount, and mount again at once: a stopping holder is waited for
exec 7<>"$A/d.img"
printf z | dd of="$A/d.img" bs=1 conv=notrunc status=none
exec 7<&-
old=$(vd_pid "$A")
umount "$A"
mount_vd "$SRC" "$B" --cache="$T/ca"
wait_for "! alive $old" 30
umount_vd "$B"
ok "a cache directory has one mount at a time"
