#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A source whose metadata cannot be written, full or read-only: what is there is read, disks with layers are not
# written, and everything is as before once there is room.
. "$(dirname "$0")/lib.sh"

# status WHAT WANTED COMMAND...: its exit status; what it says in $T/out
status() {
    local what=$1 wanted=$2 found=0
    shift 2
    "$@" >"$T/out" 2>&1 || found=$?
    [ "$found" = "$wanted" ] || fail "$what: exit $found, wanted $wanted: $(cat "$T/out")"
}

# stamp FILE BYTE BLOCK: a block of one byte
stamp() {
    head -c 4096 /dev/zero | tr '\0' "$2" | dd of="$1" bs=4096 seek="$3" conv=notrunc,fsync status=none
}

# reads_as_before WHAT WORDS: all disks, and the log has one sentence of the clone whose records cannot be written
reads_as_before() {
    local what=$1 name
    for name in golden clone fresh frozen; do
        assert_same "$what: $name" "$MNT/$name.img" "$T/$name.expect"
    done
    assert_same "$what: plain" "$MNT/plain.img" "$T/plain.expect"
    grep -q "refused: " "$(vd_log "$MNT")" && fail "$what: a disk is refused: $(cat "$(vd_log "$MNT")")"
    assert_eq "$what: warnings" "$(grep -c "fresh.img: read past the cache, and not written: .*$2" "$(vd_log "$MNT")")" 1
}

# not_written WHAT: neither by a client nor by a command
not_written() {
    assert_fails "$1: a write" dd if=/dev/zero of="$MNT/fresh.img" bs=4096 count=1 conv=notrunc
    assert_fails "$1: a truncation" truncate -s 1M "$MNT/fresh.img"
    status "$1: a snapshot" 1 vdisk snapshot "$MNT/fresh.img" more
}

truncate -s 96M "$T/fs.img"
mkfs.ext4 -q -F -m 0 "$T/fs.img"
mount -o loop "$T/fs.img" "$SRC"
random_file "$SRC/golden.img" 8M 1
random_file "$SRC/plain.img" 2M 2
cp "$SRC/plain.img" "$SRC/frozen.img"
mount_vd "$SRC" "$MNT"
vdisk clone "$MNT/golden.img" "$MNT/clone.img"
stamp "$MNT/clone.img" c 3
stamp "$MNT/frozen.img" f 5
vdisk snapshot "$MNT/frozen.img" s
for name in golden clone frozen plain; do
    cp "$MNT/$name.img" "$T/$name.expect"
done
cp "$T/golden.expect" "$T/fresh.expect"
vdisk clone "$MNT/golden.img" "$MNT/fresh.img" # never opened: an owner record would be the first, and take a page
umount_vd "$MNT"

# to the last block, and the last inode: metadata is small
fill() {
    local i=0
    dd if=/dev/zero of="$SRC/filler" bs=1M status=none 2>/dev/null || true
    dd if=/dev/zero of="$SRC/filler" bs=512 oflag=append conv=notrunc status=none 2>/dev/null || true
    while : >"$SRC/i$i"; do i=$((i + 1)); done 2>/dev/null
    sync -f "$SRC"
}

fill
mount_vd "$SRC" "$MNT"
exec {fd}<"$MNT/fresh.img"
reads_as_before "full" "No space left.*make room"
not_written "full"
reads_as_before "full, after writes" "No space left.*make room"
exec {fd}<&-
rm -f "$SRC"/filler "$SRC"/i*
wait_for "! vdisk --json info '$MNT/fresh.img' | jq -e .attached >/dev/null" 20
exec {fd}<>"$MNT/fresh.img"
assert_same "with room again" "$MNT/fresh.img" "$T/fresh.expect"
assert_eq "owned again" "$(vdisk --json owner "$MNT/fresh.img" | jq -r .state)" shared
reads_backing "$MNT" cmp "$MNT/fresh.img" "$T/fresh.expect"
assert_eq "cached again: read from the backing" "$BACKING_BYTES" 0
stamp "$MNT/fresh.img" d 4
stamp "$T/fresh.expect" d 4
exec {fd}<&-
status "check" 0 vdisk check "$MNT"
umount_vd "$MNT"
ok "full, and with room again"

mkdir "$T/ro"
mount --bind "$SRC" "$T/ro"
mount -o remount,bind,ro "$T/ro"
mount_vd "$T/ro" "$MNT"
exec {fd}<"$MNT/fresh.img"
reads_as_before "read-only" "Read-only file system.*make its metadata writable"
not_written "read-only"
exec {fd}<&-
umount_vd "$MNT"
umount "$T/ro"
mount_vd "$SRC" "$MNT"
stamp "$MNT/clone.img" e 6
stamp "$T/clone.expect" e 6
assert_same "written again" "$MNT/clone.img" "$T/clone.expect"
umount_vd "$MNT"
ok "read-only"
