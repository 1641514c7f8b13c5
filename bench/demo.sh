#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run demo: a directory with a golden image, mounted; two clones of it, a guest booted from each; what the cache did.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VD_BUILD=${VD_BUILD:-$top/build}
. "$top/test/lib/common.sh"
. "$top/test/lib/mount.sh"
. "$top/test/guest/lib.sh"

say() {
    printf '\n== %s\n' "$*"
}

say "a golden image: ext4 with busybox and 24 MiB of files, in $T/images"
guest_prepare
tree=$T/tree
mkdir -p "$tree"/{bin,data} "$T/images"
cp "$(command -v busybox)" "$tree/bin/busybox"
ln -s busybox "$tree/bin/sh"
for i in 1 2 3 4 5 6; do
    random_file "$tree/data/file-$i" 4M "$i"
done
cat >"$tree/hello" <<'TXT'
#!/bin/sh
echo "hello from $(/bin/busybox uname -sr), running from the golden image"
TXT
chmod 755 "$tree/hello"
(cd "$tree" && find . -type f ! -name SUMS -exec sha256sum {} + >"$T/sums" && mv "$T/sums" SUMS)
files=$(wc -l <"$tree/SUMS")
truncate -s 64M "$T/images/golden.img"
mkfs.ext4 -q -F -L golden -d "$tree" "$T/images/golden.img"
sync "$T/images/golden.img"

say "vdiskfs $T/images $T/mnt"
mount_vd "$T/images" "$T/mnt"

say "two clones of it, and a snapshot"
vdisk clone "$T/mnt/golden.img" "$T/mnt/web1.img"
vdisk clone "$T/mnt/golden.img" "$T/mnt/web2.img"
vdisk snapshot "$T/mnt/web1.img" before
vdisk ls "$T/mnt"
vdisk tree "$T/mnt"

numbers() {
    vdisk --json cache stats "$T/mnt" | jq -r '"\(.hits) \(.misses) \(.hit_bytes) \(.miss_bytes) \(.backing_read_bytes)"'
}

report=$(printf '%-12s %8s %8s %12s %12s %22s' '' hits misses 'from cache' missed 'read from the backing')
disk=web1.img
for boot in first second; do
    say "the $boot boot, from $T/mnt/$disk"
    read -r hits misses hit_bytes miss_bytes backing <<<"$(numbers)"
    guest_boot "$T/mnt/$disk" root=1
    echo "$GUEST_OUT" | sed 's/^/    /'
    assert_eq "files that the guest read right" "$(guest_said files)" "$files"
    read -r hits2 misses2 hit_bytes2 miss_bytes2 backing2 <<<"$(numbers)"
    report+=$(printf '\n%-12s %8d %8d %8d KiB %8d KiB %18d KiB' "$boot boot" $((hits2 - hits)) \
        $((misses2 - misses)) $(((hit_bytes2 - hit_bytes) / 1024)) $(((miss_bytes2 - miss_bytes) / 1024)) \
        $(((backing2 - backing) / 1024)))
    last_backing=$((backing2 - backing))
    disk=web2.img
done

say "what the cache did"
echo "$report"
[ "$last_backing" -eq 0 ] || fail "the second boot read $last_backing bytes from the backing, and should have read none"
umount_vd "$T/mnt"
echo
echo "The second boot, of another clone, read nothing from the backing. Unmounted and cleaned up."
