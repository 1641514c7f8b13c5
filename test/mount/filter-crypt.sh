#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The filter crypt: what lies in the image is AES-256-XTS by another implementation's reckoning, nothing plain is in image or cache,
# unaligned requests, holes, clones, wrong keys.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"

here=$(cd "$(dirname "$0")" && pwd)
xts() {
    /usr/bin/python3 "$here/xts.py" "$@"
}
SRC=$T/src MNT=$T/mnt
mkdir "$SRC"
head -c 64 /dev/urandom >"$T/key"
head -c 64 /dev/urandom >"$T/other-key"
chmod 600 "$T/key" "$T/other-key"

# what is plain is text, which is found wherever it lies
yes "the quick brown fox jumps over the lazy dog, in plain text" | head -c 3M >"$T/plain" || true
plain_in() {
    grep -aq "quick brown fox" "$1"
}
plain_in "$T/plain" || fail "the plain text is not found where it is"

for sector in 512 4096; do
    truncate -s 4M "$SRC/$sector.img"
    mount_vd "$SRC" "$MNT" --cache="$T/cache-$sector" --cache-size=64M
    disk=$MNT/$sector.img
    vdisk filter attach "$disk" crypt "key-file=$T/key" "sector-size=$sector"
    assert_eq "a hole reads as zeroes" "$(tr -d '\0' <"$disk" | wc -c)" 0
    dd if="$T/plain" of="$disk" bs=64K conv=notrunc,fsync oflag=direct status=none
    cp "$T/plain" "$T/expect"
    truncate -s 4M "$T/expect"
    assert_same "read back" "$disk" "$T/expect"
    # a part of a sector, across sectors, and zeroes in the middle of one
    for off in 3 509 1000 4095 70001 1048570; do
        printf 'PATCHED-%d' $off | tee >(dd of="$T/expect" bs=1 seek=$off conv=notrunc status=none) |
            dd of="$disk" bs=1 seek=$off conv=notrunc status=none
    done
    wait_for "grep -q PATCHED-1048570 '$T/expect'" 10
    for range in "8192 4096" "20000 3000" "2097152 1048576"; do
        read -r off len <<<"$range"
        fallocate -z -o "$off" -l "$len" "$disk"
        dd if=/dev/zero of="$T/expect" bs=1 seek="$off" count="$len" conv=notrunc status=none
    done
    fallocate -p -o 300000 -l 50001 "$disk"
    dd if=/dev/zero of="$T/expect" bs=1 seek=300000 count=50001 conv=notrunc status=none
    assert_same "after changes of parts" "$disk" "$T/expect"
    umount_vd "$MNT"
    xts "$T/key" $sector decrypt "$SRC/$sector.img" "$T/decrypted"
    assert_same "by another implementation" "$T/decrypted" "$T/expect"
    ! plain_in "$SRC/$sector.img" || fail "plain text in the image"

    # a cold cache, then a warm one
    for round in 1 2; do
        mount_vd "$SRC" "$MNT" --cache="$T/cold-$sector" --cache-size=64M
        assert_same "round $round" "$disk" "$T/expect"
        umount_vd "$MNT"
    done
    for cache in cache cold; do
        assert_ge "bytes in the cache's data" "$(stat -c %s "$T/$cache-$sector/data")" 1
        ! plain_in "$T/$cache-$sector/data" || fail "plain text in the cache"
    done
    ok "sectors of $sector"
done

# ---- what another implementation encrypted

xts "$T/key" 512 encrypt "$T/expect" "$SRC/given.img"
mount_vd "$SRC" "$MNT" --cache-size=64M
assert_fails "an image that holds data" vdisk filter attach "$MNT/given.img" crypt "key-file=$T/key"
grep -q "holds data" "$T/fails.out" || fail "the reason: $(cat "$T/fails.out")"
vdisk filter attach "$MNT/given.img" crypt "key-file=$T/key" existing=ciphertext
assert_same "what was encrypted elsewhere" "$MNT/given.img" "$T/expect"
ok "existing ciphertext"

# ---- a disk that is not empty: wherever its data are, and whenever they come

truncate -s 1G "$SRC/middle.img" # three blocks, between zeroes and holes
printf x | dd of="$SRC/middle.img" bs=4096 seek=140001 conv=notrunc status=none
dd if=/dev/zero of="$SRC/middle.img" bs=1M seek=10 count=2 conv=notrunc status=none
refuse_data() {
    assert_fails "$1" vdisk filter attach "$MNT/middle.img" crypt "key-file=$T/key"
    grep -q "holds data" "$T/fails.out" || fail "the reason: $(cat "$T/fails.out")"
    assert_eq "$1: filters" "$(vdisk --json filter ls "$MNT/middle.img" | jq -c '[.filters[].name]')" "$2"
}
refuse_data "data in the middle" '[]'
fallocate -p -o $((140001 * 4096)) -l 4096 "$MNT/middle.img"

# data that come while crypt looks, in a place where it has looked: what it reads is read slowly
dd if=/dev/zero of="$MNT/middle.img" bs=1M seek=20 count=4 conv=notrunc,fsync status=none
vdisk filter attach "$MNT/middle.img" throttle bps-read=2M
vdisk filter attach "$MNT/middle.img" crypt "key-file=$T/key" >"$T/attach.out" 2>&1 &
attaching=$!
wait_for '[ "$(vdisk --json filter ls "$MNT/middle.img" | jq ".filters[] | select(.name == \"throttle\") | .requests")" -ge 3 ]' 20
printf came | dd of="$MNT/middle.img" bs=1 seek=$((11 << 20)) conv=notrunc status=none
found=0
wait $attaching || found=$?
assert_eq "attach while data come: exit" $found 1
grep -q "holds data" "$T/attach.out" || fail "the reason: $(cat "$T/attach.out")"
assert_eq "the data that came" "$(dd if="$MNT/middle.img" bs=1 skip=$((11 << 20)) count=4 status=none)" came
fallocate -p -o $((11 << 20)) -l 4096 "$MNT/middle.img"
vdisk filter attach "$MNT/middle.img" crypt "key-file=$T/key"
assert_eq "an empty disk at last" "$(vdisk --json filter ls "$MNT/middle.img" | jq -c '[.filters[].name]')" '["crypt","throttle"]'
ok "data are found wherever they are, and whenever they come"

# ---- keys, clones, sizes

vdisk snapshot "$MNT/512.img" s
vdisk clone --snapshot s "$MNT/512.img" "$MNT/child.img"
assert_eq "the clone's filters" "$(vdisk --json filter ls "$MNT/child.img" | jq -r '.filters[].name')" crypt
assert_same "the clone" "$MNT/child.img" "$MNT/512.img"
printf child | dd of="$MNT/child.img" bs=1 seek=77 conv=notrunc status=none
assert_eq "written to the clone" "$(dd if="$MNT/child.img" bs=1 skip=77 count=5 status=none)" child
umount_vd "$MNT"
cp "$T/other-key" "$T/key.new"
mv "$T/key" "$T/key.right"
cp "$T/other-key" "$T/key"
mount_vd "$SRC" "$MNT" --cache-size=64M
assert_fails "another key" cat "$MNT/512.img"
assert_eq "its state" "$(vdisk --json filter ls "$SRC/512.img" | jq -r '.filters[0].name')" crypt
grep -q "filter crypt is missing" "$(vd_log "$MNT")" || fail "the log does not say why"
umount_vd "$MNT"
mv "$T/key.right" "$T/key"
mount_vd "$SRC" "$MNT" --cache-size=64M
head -c 1M "$MNT/512.img" >/dev/null
assert_fails "a size between sectors" vdisk resize "$MNT/512.img" 5000001
vdisk resize "$MNT/512.img" 5M
assert_eq "what is new is zero" "$(tail -c 1M "$MNT/512.img" | tr -d '\0' | wc -c)" 0
vdisk filter detach "$MNT/given.img" crypt
assert_same "without the filter: ciphertext" "$MNT/given.img" "$SRC/given.img"
umount_vd "$MNT"
ok "keys, clones, sizes"

# ---- under load, checked by fio

truncate -s 16M "$SRC/load.img"
mount_vd "$SRC" "$MNT" --cache-size=8M
vdisk filter attach "$MNT/load.img" crypt "key-command=cat $T/key"
for direct in 0 1; do
    (cd "$T" && fio --name=verify --filename="$MNT/load.img" --size=16M --rw=randwrite --bsrange=512-64k --bs_unaligned=$((1 - direct)) \
        --direct=$direct --blockalign=512 --ioengine=libaio --iodepth=16 --verify=crc32c --verify_state_save=0 --do_verify=1 --verify_fatal=1 \
        --time_based=0 --io_size=24M >"$T/fio.out" 2>&1) || fail "fio, direct=$direct: $(tail -n 20 "$T/fio.out")"
done
umount_vd "$MNT"
ok "fio with verify"
