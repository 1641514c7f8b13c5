#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fio with verify: buffered and O_DIRECT, block sizes that are no multiple of a block, odd file sizes and
# their tails, in each cache mode, with a cache smaller than the disk.
. "$(dirname "$0")/lib.sh"

# verify_job NAME ARGS...: writes at random, then reads all of it back and verifies
cd "$T" # fio leaves its state files where it runs
verify_job() {
    local name=$1
    shift
    fio --name="$name" --directory="$MNT" --verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=1 \
        --fallocate=none --output="$T/fio-$name.log" "$@" || {
        cat "$T/fio-$name.log" >&2
        fail "fio $name"
    }
}

for mode in writethrough writearound off; do
    mount_vd "$SRC" "$MNT" --cache-mode=$mode --cache-size=6M
    verify_job "direct-$mode" --rw=randwrite --bs=4k --size=16M --direct=1 --ioengine=libaio --iodepth=16
    verify_job "buffered-$mode" --rw=randwrite --bs=4k-64k --size=16M --ioengine=psync
    verify_job "odd-$mode" --rw=randwrite --bs=1000-30000 --bs_unaligned --size=7777777 --ioengine=psync
    verify_job "mixed-$mode" --rw=randwrite --bs=512-128k --blockalign=512 --size=8M --direct=1 \
        --ioengine=libaio --iodepth=8 --numjobs=2 --serialize_overlap=1
    umount_vd "$MNT"
    rm -rf "${SRC:?}"/* "$SRC/.vdiskfs"
    ok "fio verifies in $mode"
done

# tails of odd files, read in every way, before and after growing
mount_vd "$SRC" "$MNT"
for size in 1048576 1048577 1050623 1052671 3000001; do
    random_file "$T/f" $size $size
    cp "$T/f" "$MNT/f"
    for bs in 1 511 4096 5000 1048576; do
        [ $bs -gt 1 ] || { cmp "$MNT/f" "$T/f"; continue; }
        dd if="$MNT/f" bs=$bs status=none | cmp - "$T/f" || fail "size $size read by $bs"
    done
    umount_vd "$MNT"
    mount_vd "$SRC" "$MNT"
    cmp "$MNT/f" "$T/f" || fail "size $size after a remount"
    printf tail >>"$MNT/f"
    printf tail >>"$T/f"
    cmp "$MNT/f" "$T/f" || fail "size $size after an append"
    truncate -s +5000 "$MNT/f"
    truncate -s +5000 "$T/f"
    cmp "$MNT/f" "$T/f" || fail "size $size after growing"
    truncate -s 1048600 "$MNT/f"
    truncate -s 1048600 "$T/f"
    truncate -s 1060000 "$MNT/f"
    truncate -s 1060000 "$T/f"
    cmp "$MNT/f" "$T/f" || fail "size $size after a cut and growing"
    assert_same "the source" "$SRC/f" "$T/f"
    rm "$MNT/f"
done
umount_vd "$MNT"
ok "tails of odd files"
