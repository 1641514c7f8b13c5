#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A guest reads exactly the source's bytes, and what it wrote and synced is in the source after umount.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"
. "$(dirname "$0")/lib.sh"
guest_prepare

mib=32
mkdir "$T/src"
random_file "$T/src/disk.img" ${mib}M
cp "$T/src/disk.img" "$T/expect"
sum=$(sha256sum <"$T/expect")
mount_vd "$T/src" "$T/mnt"

guest_boot "$T/mnt/disk.img" mib=$mib
assert_eq "sectors that the guest sees" "$(guest_said sectors)" $((mib * 2048))
assert_eq "sum that the guest read" "$(guest_said sum)" "${sum%% *}"
ok "a guest reads the source's bytes"

reads_backing "$T/mnt" guest_boot "$T/mnt/disk.img" mib=$mib
assert_eq "sum at the second boot" "$(guest_said sum)" "${sum%% *}"
assert_eq "bytes read from the backing at the second boot" "$BACKING_BYTES" 0
ok "the second boot reads nothing from the backing"

guest_boot "$T/mnt/disk.img" write=written-by-the-guest at=1000
assert_eq "what the guest reads back" "$(guest_said wrote)" written-by-the-guest
umount_vd "$T/mnt"
# dd without a whole last block leaves the rest of the block to the guest's page cache: as it was
printf written-by-the-guest | dd of="$T/expect" bs=4096 seek=1000 conv=notrunc status=none
assert_same "the source after umount" "$T/expect" "$T/src/disk.img"
ok "what a guest wrote is in the source"
