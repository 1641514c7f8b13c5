#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Warm where it may be, never stale: rereads with and without a remount, and images that change behind the
# cache's back in every way a user can think of.
. "$(dirname "$0")/lib.sh"

random_file "$SRC/a.img" 64M 1
random_file "$T/second" 64M 2
mount_vd "$SRC" "$MNT"
cmp "$MNT/a.img" "$SRC/a.img"
reads_backing "$MNT" cmp "$MNT/a.img" "$SRC/a.img"
assert_eq "backing bytes of a reread" "$BACKING_BYTES" 0
ok "a reread without a remount reads nothing from the backing"

umount_vd "$MNT"
mount_vd "$SRC" "$MNT"
reads_backing "$MNT" cmp "$MNT/a.img" "$SRC/a.img"
assert_lt "backing bytes of a reread after a remount" "$BACKING_BYTES" 8000000
ok "a reread after a remount read $BACKING_BYTES bytes from the backing"
umount_vd "$MNT"

dd if="$T/second" of="$SRC/a.img" bs=1M conv=notrunc status=none
mount_vd "$SRC" "$MNT"
assert_same "an image rewritten in the source" "$MNT/a.img" "$T/second"
umount_vd "$MNT"
ok "changed in the source while unmounted"

printf X | dd of="$SRC/a.img" bs=1 seek=12345678 conv=notrunc status=none
printf X | dd of="$T/second" bs=1 seek=12345678 conv=notrunc status=none
mount_vd "$SRC" "$MNT"
assert_same "an image with one byte changed" "$MNT/a.img" "$T/second"
umount_vd "$MNT"
ok "one byte changed in the source while unmounted"

# another cache writes; then none does; the first must notice each time
for how in --cache="$T/other" --cache-mode=off; do
    random_file "$T/piece" 1M 77
    mount_vd "$SRC" "$MNT" "$how"
    dd if="$T/piece" of="$MNT/a.img" bs=1M seek=5 conv=notrunc,fsync status=none
    dd if="$T/piece" of="$T/second" bs=1M seek=5 conv=notrunc status=none
    umount_vd "$MNT"
    mount_vd "$SRC" "$MNT"
    assert_same "an image written through a mount with $how" "$MNT/a.img" "$T/second"
    umount_vd "$MNT"
    random_file "$T/piece" 1M 78
    ok "written through a mount with $how in between"
done

cp -a "$SRC/a.img" "$SRC/b.img"
getfattr -n user.vdiskfs --only-values "$SRC/b.img" >/dev/null
mount_vd "$SRC" "$MNT"
assert_same "a copy with attributes" "$MNT/b.img" "$T/second"
dd if="$T/piece" of="$MNT/b.img" bs=1M conv=notrunc,fsync status=none
assert_same "the original of a copy that was written" "$MNT/a.img" "$T/second"
a=$(vdisk --json info "$MNT/a.img" | jq -r .disk_id)
b=$(vdisk --json info "$MNT/b.img" | jq -r .disk_id)
[ "$a" != "$b" ] || fail "a copy with attributes has its original's disk ID"
umount_vd "$MNT"
ok "a copy with its attributes is a disk of its own"

# another disk takes the name: by rename in the source, and through the mount
mv "$SRC/b.img" "$SRC/a.img"
cp "$SRC/a.img" "$T/now"
mount_vd "$SRC" "$MNT"
assert_same "a disk that took another's name" "$MNT/a.img" "$T/now"
cp "$T/second" "$MNT/c.img"
cmp "$MNT/c.img" "$T/second"
mv "$MNT/c.img" "$MNT/a.img"
assert_same "a disk that was renamed over another" "$MNT/a.img" "$T/second"
umount_vd "$MNT"
assert_same "the source after it" "$SRC/a.img" "$T/second"
mount_vd "$SRC" "$MNT"
reads_backing "$MNT" cmp "$MNT/a.img" "$T/second"
assert_lt "backing bytes of a renamed disk" "$BACKING_BYTES" 8000000
umount_vd "$MNT"
ok "a rename carries the disk, and what is cached of it"

# attributes that change through the mount cost no warmth
mount_vd "$SRC" "$MNT"
chown 1234:1234 "$MNT/a.img"
chmod 640 "$MNT/a.img"
umount_vd "$MNT"
mount_vd "$SRC" "$MNT"
reads_backing "$MNT" cmp "$MNT/a.img" "$T/second"
assert_lt "backing bytes after chown and chmod through the mount" "$BACKING_BYTES" 8000000
umount_vd "$MNT"
ok "chown and chmod through the mount keep it warm"

# what is written through is warm, and after a kill it is right
mount_vd "$SRC" "$MNT"
random_file "$T/third" 16M 3
cp "$T/third" "$MNT/w.img"
umount_vd "$MNT"
mount_vd "$SRC" "$MNT"
dd if="$T/piece" of="$MNT/w.img" bs=1M conv=notrunc,fsync status=none
dd if="$T/piece" of="$T/third" bs=1M conv=notrunc status=none
reads_backing "$MNT" dd if="$MNT/w.img" of=/dev/null bs=1M count=1 status=none
assert_eq "backing bytes of a read after a write" "$BACKING_BYTES" 0
kill_vd "$MNT"
mount_vd "$SRC" "$MNT"
assert_same "after a kill" "$MNT/w.img" "$T/third"
assert_same "a disk that was only read before the kill" "$MNT/a.img" "$T/second"
umount_vd "$MNT"
ok "a write is a hit; after a kill all is right"
