#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What people do with images: qemu-img and qemu-io in the mount, raw and qcow2, with a backing file. The
# source must hold the same afterwards, and a second mount show it.
. "$(dirname "$0")/lib.sh"
mount_vd "$SRC" "$MNT" --cache-size=64M
quiet() {
    "$@" >"$T/out.log" 2>&1 || fail "$*: $(cat "$T/out.log")"
}
random_file "$T/ref" 24M 7
cd "$MNT"

quiet qemu-img create -f raw raw.img 24M
assert_eq "size of a new image" "$(file_bytes "$SRC/raw.img")" $((24 << 20))
quiet qemu-img convert -n -O raw "$T/ref" raw.img
assert_same "convert into a disk" raw.img "$T/ref"
quiet qemu-img convert -O raw -t none -T none raw.img direct.img
assert_same "convert with cache=none" direct.img "$T/ref"
quiet qemu-img compare raw.img direct.img
ok "raw"

quiet qemu-img convert -O qcow2 raw.img full.qcow2
quiet qemu-img check full.qcow2
quiet qemu-img compare -f raw -F qcow2 raw.img full.qcow2
quiet qemu-img create -f qcow2 -b raw.img -F raw over.qcow2
quiet qemu-io -c 'write -P 0x5a 1M 3M' -c 'write -z 8M 1M' -c flush -c 'read -P 0x5a 1M 3M' over.qcow2
quiet qemu-img check over.qcow2
quiet qemu-img convert -O raw over.qcow2 flat.img
cp "$T/ref" "$T/want"
quiet qemu-io -f raw -c 'write -P 0x5a 1M 3M' -c 'write -P 0 8M 1M' "$T/want"
assert_same "an overlay" flat.img "$T/want"
assert_same "its backing file" raw.img "$T/ref"
quiet qemu-img commit over.qcow2
assert_same "commit" raw.img "$T/want"
quiet qemu-img rebase -u -b '' over.qcow2
ok "qcow2 with a backing file"

quiet qemu-img resize -f raw raw.img 32M
assert_eq "size after growing" "$(file_bytes "$SRC/raw.img")" $((32 << 20))
quiet qemu-io -f raw -c 'write -P 3 28M 1M' -c 'read -P 0 24M 4M' raw.img
quiet qemu-img resize -f raw --shrink raw.img 25M
quiet qemu-img resize -f raw raw.img 32M
quiet qemu-io -f raw -c 'read -P 0 25M 7M' raw.img
quiet qemu-img resize full.qcow2 30M
quiet qemu-img check full.qcow2
ok "resize"

quiet qemu-img create -f raw sparse.img 64M
quiet qemu-io -f raw -c 'write -P 1 0 64k' -c 'write -P 1 16M 64k' -c 'discard 16M 64k' sparse.img
quiet qemu-io -f raw -d unmap -c 'discard 0 64k' -c 'write -P 2 32M 1M' sparse.img
qemu-img map --output=json -f raw sparse.img >"$T/mnt.json"
qemu-img map --output=json -f raw "$SRC/sparse.img" >"$T/src.json"
assert_same "map" "$T/mnt.json" "$T/src.json"
assert_eq "data in the map" "$(jq -c '[.[] | select(.data) | [.start, .length]]' "$T/mnt.json")" '[[33554432,1048576]]'
ok "holes and map"

# an odd size, unaligned requests, and every cache mode
quiet qemu-img create -f raw odd.img 5000k
truncate -s $((5000 * 1024 - 300)) odd.img
for cache in writeback none directsync writethrough unsafe; do
    quiet qemu-io -f raw -t "$cache" -c 'write -P 4 1000 5555' -c 'read -P 4 1000 5555' -c 'write -P 6 2M 1M' odd.img
    quiet qemu-io -f raw -t "$cache" -c 'read -P 6 2M 1M' odd.img
done
assert_same "an odd image" odd.img "$SRC/odd.img"
for aio in threads native io_uring; do
    qemu-io -f raw -i "$aio" -t none -c 'aio_write -P 8 3M 1M' -c 'aio_write -P 9 1M 1M' -c aio_flush \
        -c 'read -P 8 3M 1M' -c 'read -P 9 1M 1M' odd.img >"$T/out.log" 2>&1 ||
        grep -qi 'io_uring\|not supported\|Operation not permitted' "$T/out.log" || fail "aio=$aio: $(cat "$T/out.log")"
done
ok "cache modes"

# an image is removed while it is open, and replaced by a rename
exec 5<>sparse.img
rm sparse.img
dd bs=1M count=1 seek=33 conv=notrunc if=/dev/zero of=/proc/self/fd/5 status=none
assert_eq "a byte of a removed image" "$(dd if=/proc/self/fd/5 bs=1M skip=32 count=1 status=none | cksum)" \
    "$(head -c 1M /dev/zero | tr '\0' '\2' | cksum)"
exec 5>&-
exec 5<raw.img
mv raw.img moved.img
mv flat.img raw.img
assert_eq "an image that was renamed while open" "$(head -c 24M <&5 | cksum)" "$(head -c 24M moved.img | cksum)"
exec 5<&-
assert_same "the image in its place" raw.img "$T/want"
ok "removed and renamed while open"

cd /
umount_vd "$MNT"
assert_same "the source" "$SRC/raw.img" "$T/want"
mount_vd "$SRC" "$MNT" --cache-size=64M
assert_same "after a remount" "$MNT/raw.img" "$T/want"
(cd "$MNT" && quiet qemu-img check full.qcow2)
umount_vd "$MNT"
ok "after a remount"
