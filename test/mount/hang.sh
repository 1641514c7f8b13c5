#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A backing that hangs stops its own disk only: another disk of the same mount, cached and not, names and
# attributes go on. The hung one is a file of a file server that is stopped. And a daemon that hangs stops no command
# that only looks.
. "$(dirname "$0")/lib.sh"

mkdir "$SRC/slow"
"$VD_BUILD/bench/nullfs" "$SRC/slow" 64M >"$T/nullfs.log" 2>&1 &
server=$!
later $server
wait_for "mounted '$SRC/slow'" 20
random_file "$SRC/well.img" 8M 1
cp "$SRC/well.img" "$T/expect"
mount_vd "$SRC" "$MNT"
dd if="$MNT/slow/disk.img" of=/dev/null bs=4k count=1 status=none
head -c 4M "$MNT/well.img" | cmp - <(head -c 4M "$T/expect")
# more readers than a lane has threads, and than workers may wait; opened while all is well
fds=()
for i in $(seq 60); do
    exec {fd}<"$MNT/slow/disk.img"
    fds+=("$fd")
done
kill -STOP $server
readers=()
for i in $(seq 60); do
    dd bs=4k skip=$((i * 100)) count=1 status=none <&"${fds[i - 1]}" >/dev/null 2>&1 &
    readers+=($!)
    later $!
done
exec 9<>"$MNT/well.img"
wait_for "[ \$(vdisk --json cache stats '$MNT' | jq '.misses + .bypassed') -ge 60 ]" 20
for i in 1 2 3; do
    timeout 20 cmp "$MNT/well.img" "$T/expect" || fail "reading the other disk"
    timeout 20 dd if="$T/expect" of="$MNT/well.img" bs=64k skip=$i seek=$i count=1 conv=notrunc,fsync status=none ||
        fail "writing the other disk"
    timeout 20 ls "$MNT" >/dev/null || fail "listing"
    timeout 20 bash -c "echo x >'$MNT/new$i' && rm '$MNT/new$i'" || fail "a new file"
done
exec 9<&-
kill -CONT $server
for pid in "${readers[@]}"; do
    wait "$pid" || fail "a reader of the hung disk failed"
done
for fd in "${fds[@]}"; do exec {fd}<&-; done
umount_vd "$MNT"
umount "$SRC/slow"
kill $server 2>/dev/null || true # somebody's mount namespace may hold a copy of its mount
wait $server || true
ok "a hung backing stops its own disk only"

# ---- a daemon that hangs: it is asked once, and then left alone
for i in 1 2 3 4; do
    random_file "$SRC/more$i.img" 1M
done
mount_vd "$SRC" "$MNT"
kill -STOP "$(vd_pid "$MNT")"
timeout 30 "$VD_BUILD/vdisk" --json ls "$SRC" >"$T/ls" 2>"$T/err" || fail "ls beside a daemon that hangs: $(cat "$T/err")"
assert_eq "disks" "$(jq '.disks | length' "$T/ls")" 5
assert_eq "what ls says" "$(grep -c 'did not answer' "$T/err")" 1
mkdir "$T/no-run" # of another user, so to speak: nothing tells that this mount has a daemon
VDISKFS_RUNDIR=$T/no-run timeout 60 "$VD_BUILD/vdisk" --json doctor 2>&1 | cat >"$T/doctor" || true
jq -e --arg m "$MNT" '.findings[] | select(.level == "error" and (.what | endswith("the mount \($m) does not answer")))' \
    "$T/doctor" >/dev/null || fail "doctor: $(cat "$T/doctor")"
kill -CONT "$(vd_pid "$MNT")"
umount_vd "$MNT"
ok "a daemon that hangs stops neither ls nor doctor"
