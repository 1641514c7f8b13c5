#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The filter mirror: a second image that holds what the disk holds, also after it was lost and came back.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"

SRC=$T/src MNT=$T/mnt
mkdir "$SRC" "$T/far"
random_file "$SRC/a.img" 32M
truncate -s 8M "$SRC/b.img" # hammer begins with zeroes
mount_vd "$SRC" "$MNT" --cache-size=64M
disk=$MNT/a.img

mirror_is() {
    [ "$(vdisk --json filter ls "$1" | jq -r '.filters[] | select(.name == "mirror").status.state')" = "$2" ]
}
identical() {
    qemu-img compare -f raw -F raw "$1" "$2" >"$T/compare" 2>&1 || fail "$3: $(cat "$T/compare")"
}

# ---- the first copy, and writes

exec 5<>"$disk"
vdisk filter attach "$disk" mirror "target=$T/copy.img"
wait_for "mirror_is '$disk' mirrored" 60
identical "$disk" "$T/copy.img" "the first copy"
fio --name=w --filename="$disk" --size=32M --rw=randwrite --bsrange=4k-64k --direct=1 --ioengine=libaio --iodepth=16 \
    --io_size=16M --verify_state_save=0 --randrepeat=1 --verify=crc32c --verify_fatal=1 >"$T/fio.out" 2>&1 || fail "fio: $(cat "$T/fio.out")"
fallocate -p -o 1M -l 3000001 "$disk"
fallocate -z -o 20000 -l 70000 "$disk"
sync "$disk"
identical "$disk" "$T/copy.img" "after writes, holes and zeroes"
vdisk resize "$disk" 40M
printf behind | dd of="$disk" bs=1 seek=40000000 conv=notrunc status=none
exec 5<&-
umount_vd "$MNT"
identical "$SRC/a.img" "$T/copy.img" "after a clean end, larger"
ok "a mirror from the beginning"

# ---- a clean end needs no copy; a kill, or a writer without the filter, does

copied() {
    vdisk --json filter ls "$1" | jq -r '.filters[] | select(.name == "mirror").status.copied_bytes'
}
mount_vd "$SRC" "$MNT" --cache-size=64M
exec 5<>"$disk"
wait_for "mirror_is '$disk' mirrored" 30
assert_eq "copied after a clean end" "$(copied "$disk")" 0
dd if=/dev/urandom of="$disk" bs=64K seek=3 count=4 conv=notrunc,fsync status=none
kill_vd "$MNT"
exec 5<&-
mount_vd "$SRC" "$MNT" --cache-size=64M
exec 5<>"$disk"
wait_for "mirror_is '$disk' mirrored" 60
assert_ge "copied after a kill" "$(copied "$disk")" 1048576
identical "$disk" "$T/copy.img" "after a kill"
exec 5<&-
umount_vd "$MNT"
ok "clean ends and kills"

# ---- its target is lost under load, and comes back: a file of another FUSE server, which is killed

start_far() {
    : >"$T/point"
    nbdkit -f -U "$T/nbd.sock" file "$T/far/b.img" >"$T/nbdkit.log" 2>&1 5>&- &
    far_nbdkit=$!
    later $!
    wait_for "[ -S '$T/nbd.sock' ]" 20
    nbdfuse "$T/point" --unix "$T/nbd.sock" >"$T/nbdfuse.log" 2>&1 5>&- &
    far_fuse=$!
    later $!
    wait_for "grep -q ' $T/point fuse' /proc/self/mounts" 20
}
stop_far() {
    kill -9 "$far_fuse" "$far_nbdkit"
    wait_for "! alive $far_fuse && ! alive $far_nbdkit" 10
    umount -l "$T/point" 2>/dev/null || true
    rm -f "$T/nbd.sock"
}
truncate -s 8M "$T/far/b.img"
start_far
mount_vd "$SRC" "$MNT" --cache-size=64M
disk=$MNT/b.img
exec 5<>"$disk"
vdisk filter attach "$disk" mirror "target=$T/point" create=no retry=100ms
wait_for "mirror_is '$disk' mirrored" 60
"$VD_BUILD/bench/hammer" write "$disk" "$T/hammer.trail" --seconds=600 >"$T/hammer.out" 2>&1 &
hammer=$!
later $!
trail() {
    stat -c %s "$T/hammer.trail" 2>/dev/null || echo 0
}
for round in 1 2; do
    size=$(trail)
    wait_for "[ \$(trail) -gt $((size + 20000)) ]" 30
    stop_far
    wait_for "mirror_is '$disk' broken" 30
    grep -q "the mirror is broken" "$(vd_log "$MNT")" || fail "the break is not logged"
    size=$(trail)
    wait_for "[ \$(trail) -gt $((size + 20000)) ]" 30 # the guest goes on
    start_far
    wait_for "mirror_is '$disk' mirrored" 60 # while it writes
    alive $hammer || fail "the writer ended: $(cat "$T/hammer.out")"
done
kill "$hammer"
wait "$hammer" 2>/dev/null || true
"$VD_BUILD/bench/hammer" verify "$disk" "$T/hammer.trail" >"$T/verify" 2>&1 ||
    fail "the disk is not what was written: $(head -n 5 "$T/verify")"
sync "$disk"
identical "$disk" "$T/point" "after the target came back twice"
exec 5<&-
umount_vd "$MNT"
identical "$SRC/b.img" "$T/far/b.img" "at the end"
ok "a target that is lost and comes back"

# ---- what is refused

mount_vd "$SRC" "$MNT" --cache-size=64M
assert_fails "the disk itself" vdisk filter attach "$MNT/b.img" mirror "target=$SRC/b.img"
vdisk filter detach "$MNT/b.img" mirror
assert_fails "its own file" vdisk filter attach "$MNT/b.img" mirror "target=$SRC/b.img"
assert_fails "too short" vdisk filter attach "$MNT/b.img" mirror "target=$T/key" create=no
assert_fails "a folder" vdisk filter attach "$MNT/b.img" mirror "target=$T/far"
assert_eq "filters" "$(vdisk --json filter ls "$MNT/b.img" | jq -c .filters)" '[]'
umount_vd "$MNT"
ok "refusals"
