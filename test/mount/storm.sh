#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A boot storm: 64 clones of one image, read over the same range together from cold, ask the backing for it
# once; and what one of them has read all have, after snapshots and a remount too.
. "$(dirname "$0")/lib.sh"
nclones=64
range=$((32 << 20))

# Direct, so that each read reaches the daemon as it was made.
reader() {
    local disk=$1 block=$2
    flock -s "$T/gate" true # until all stand here
    dd if="$disk" bs="$block" count="$range" iflag=direct,count_bytes status=none | cmp - "$T/want"
}

# standing N: so many wait at the gate ("->" in /proc/locks, which names device and inode)
standing() {
    local major minor
    IFS=: read -r major minor < <(findmnt -nro MAJ:MIN --target "$T/gate")
    [ "$(grep -c -- "-> FLOCK .* $(printf %02x:%02x:%d "$major" "$minor" "$(stat -c %i "$T/gate")") " /proc/locks)" \
        -ge "$1" ]
}

# storm DISK...: reads them all together, in requests of several sizes; fails unless every byte is right
storm() {
    local disk pid pids=() bad=0 blocks=(1M 256K 64K 128K)
    : >"$T/gate"
    exec {gate}<"$T/gate"
    flock -x "$gate"
    for disk in "$@"; do
        reader "$disk" "${blocks[${#pids[@]} % 4]}" {gate}<&- >>"$T/readers.log" 2>&1 &
        pids+=($!)
        later $!
    done
    wait_for "standing ${#pids[@]}" 60
    exec {gate}<&-
    for pid in "${pids[@]}"; do
        wait "$pid" || bad=$((bad + 1))
    done
    assert_eq "readers that failed or read other bytes" "$bad" 0
}

random_file "$SRC/golden.raw" $((range + (4 << 20)))
head -c "$range" "$SRC/golden.raw" >"$T/want"
mount_vd "$SRC" "$MNT" --cache-size=256M
clones=()
for i in $(seq "$nclones"); do
    vdisk clone "$MNT/golden.raw" "$MNT/clone-$i.raw"
    clones+=("$MNT/clone-$i.raw")
done

reads_backing "$MNT" storm "${clones[@]}"
assert_ge "bytes read from the backing, from cold" "$BACKING_BYTES" "$range"
assert_lt "bytes read from the backing by $nclones clones" "$BACKING_BYTES" $((range * 105 / 100 + 1))
ok "$nclones clones read $range bytes each together, and the backing gave $BACKING_BYTES"

vdisk snapshot "$MNT/golden.raw" after
vdisk snapshot "$MNT/clone-1.raw" after
vdisk clone "$MNT/clone-1.raw" "$MNT/grandchild.raw" --snapshot after
some=("$MNT"/{golden,clone-1,clone-2,grandchild}.raw)
reads_backing "$MNT" storm "${some[@]}"
assert_eq "bytes read from the backing after snapshots" "$BACKING_BYTES" 0
ok "snapshots and their clones have it"

umount_vd "$MNT"
mount_vd "$SRC" "$MNT" --cache-size=256M
reads_backing "$MNT" storm "${some[@]}" "$MNT/clone-$nclones.raw"
assert_eq "bytes read from the backing after a remount" "$BACKING_BYTES" 0
umount_vd "$MNT"
ok "after a remount too"
