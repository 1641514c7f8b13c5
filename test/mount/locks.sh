#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Locks: as on a plain file, between clients of one mount, between two mounts of a source, and with those who
# use the source itself. Waiting for one stops nobody else, and ends with a signal.
. "$(dirname "$0")/lib.sh"
MNT2=$T/mnt2
truncate -s 4M "$SRC/disk.img"
truncate -s 4k "$SRC/small"
truncate -s 4k "$T/plain"
# four workers, fewer than there will be waiters
mount_vd "$SRC" "$MNT" --cache-size=16M --threads=4
mount_vd "$SRC" "$MNT2" --cache-size=16M --cache="$T/cache2" --threads=4
step() {
    python3 "$here/locks.py" "$@"
}
# holder FILE HOW [START LENGTH]: holds a lock in the background until let_go
holder() {
    rm -f "$T/go" "$T/held"
    mkfifo "$T/go"
    python3 "$here/locks.py" hold "$@" <"$T/go" >"$T/held" &
    HOLDER=$!
    later $HOLDER
    exec 7>"$T/go"
    wait_for "[ -s '$T/held' ]" 10
}
let_go() {
    echo >&7
    exec 7>&-
    wait "$HOLDER" 2>/dev/null || true
}

# the rules of closing, as on a plain file
step close_rules "$T/plain" >"$T/want"
for file in small disk.img; do
    step close_rules "$MNT/$file" >"$T/got"
    diff -u "$T/want" "$T/got" >&2 || fail "$file: locks differ from a plain file's"
done
ok "rules of closing"

for how in flock posix ofd; do
    holder "$MNT/small" "$how"
    for other in "$MNT" "$MNT2"; do
        assert_eq "$how: held against ${other##*/}" "$(step probe "$other/small" "$how")" EAGAIN
    done
    # flock is a matter of its own; POSIX and OFD locks exclude each other
    [ "$how" = flock ] || assert_eq "$how: held against the source" "$(step probe "$SRC/small" ofd)" EAGAIN
    [ "$how" != flock ] || assert_eq "flock: held against the source" "$(step probe "$SRC/small" flock)" EAGAIN
    let_go
    wait_for "[ \"\$(step probe '$MNT2/small' $how)\" = free ]" 10
    # the kernel drops what a killed process held
    holder "$MNT/small" "$how"
    kill -9 "$HOLDER"
    wait_for "[ \"\$(step probe '$MNT/small' $how)\" = free ]" 10
    exec 7>&-
done
ok "between processes, mounts and the source"

# more waiters than workers: the mount goes on, and each gets its turn
for how in flock posix ofd; do
    holder "$MNT/small" "$how"
    waiters=()
    for i in $(seq 8); do
        step wait "$MNT/small" "$how" >"$T/wait$i" &
        waiters+=($!)
        later $!
    done
    for i in $(seq 8); do
        wait_for "grep -q waiting '$T/wait$i'" 10
    done
    timeout 10 cksum "$MNT/disk.img" >/dev/null || fail "$how: waiters stopped the mount"
    assert_eq "$how: a signal" "$(timeout 20 python3 "$here/locks.py" interrupted "$MNT/small" "$how")" interrupted
    kill -9 "${waiters[0]}"
    wait_for "! alive ${waiters[0]}" 10
    grep -q 'got it' "$T"/wait* && fail "$how: a waiter had the lock"
    let_go
    for i in $(seq 2 8); do
        wait_for "grep -q 'got it' '$T/wait$i'" 20
    done
done
ok "waiting"

# an unlock elsewhere wakes waiters too
holder "$SRC/small" posix
step wait "$MNT/small" posix >"$T/wait1" &
later $!
wait_for "grep -q waiting '$T/wait1'" 10
let_go
wait_for "grep -q 'got it' '$T/wait1'" 10
ok "waiting for another process"

# our own byte is not the clients'
assert_eq "past the clip" "$(step probe "$MNT/disk.img" ofd $(((1 << 62) + 1)) 1)" EOVERFLOW
ok "clipped ranges"

# QEMU's image locking, within a mount and between two: a guest's disk is not shared
command -v qemu-system-x86_64 >/dev/null || fail "qemu-system-x86_64 is not installed"
for second in "$MNT" "$MNT2"; do
    qemu-system-x86_64 -M pc -accel tcg -m 64 -nodefaults -display none -S \
        -drive "file=$MNT/disk.img,if=virtio,format=raw" >"$T/qemu.log" 2>&1 &
    guest=$!
    later $guest
    # byte 201: nobody else may write (QEMU's block/file-posix.c)
    wait_for "[ \"\$(step held '$SRC/disk.img' 201 1)\" = held ] || ! alive $guest" 30
    alive $guest || fail "the guest did not start"
    assert_fails "a second writer on ${second##*/}" qemu-io -f raw -c "write 0 4k" "$second/disk.img"
    grep -q 'Failed to.*lock' "$T/fails.out" || fail "a second writer failed without a word of locks: $(cat "$T/fails.out")"
    qemu-io -f raw -U -r -c "read 0 4k" "$second/disk.img" >"$T/reader.log" 2>&1 ||
        fail "a reader that shares: $(cat "$T/reader.log")"
    kill -9 $guest
    wait_for "qemu-io -f raw -c 'write -P 2 0 4k' '$second/disk.img' >'$T/second.log' 2>&1" 20
    qemu-io -f raw -c 'read -P 2 0 4k' "$MNT/disk.img" >"$T/third.log" 2>&1
    grep -q 'Pattern verification failed' "$T/third.log" && fail "the first mount reads stale bytes"
    # and back, so that the next round's first mount may own it
    wait_for "qemu-io -f raw -c 'write -P 1 0 4k' '$MNT/disk.img' >'$T/back.log' 2>&1" 20
done
ok "QEMU's image locking"

# a read lock of byte 101 says that writes will come: the disk must be ours first
exec 6<>"$MNT/disk.img"
echo owned >&6
assert_eq "byte 101 of a disk that another mount owns" "$(step read_lock "$MNT2/disk.img" 101)" EAGAIN
assert_eq "byte 100 of it" "$(step read_lock "$MNT2/disk.img" 100)" ok
grep -q "refused: .* pid $(vd_pid "$MNT")" "$(vd_log "$MNT2")" || fail "the refusal does not name the owner"
exec 6>&-
wait_for "[ \"\$(step read_lock '$MNT2/disk.img' 101)\" = ok ]" 20
ok "owning by lock"

umount_vd "$MNT"
umount_vd "$MNT2"
