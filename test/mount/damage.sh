#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Damaged metadata refuses its disk, by name; a damaged cache is set aside or dropped; everything else goes on
# and no byte is wrong.
. "$(dirname "$0")/lib.sh"

for n in 1 2; do
    random_file "$SRC/d$n.img" 4M $n
    cp "$SRC/d$n.img" "$T/e$n"
done

both_are_right() {
    assert_same "disk 1, $1" "$MNT/d1.img" "$T/e1"
    assert_same "disk 2, $1" "$MNT/d2.img" "$T/e2"
}

mount_vd "$SRC" "$MNT"
both_are_right "at first"
uuid=$(getfattr -n user.vdiskfs --only-values "$SRC/d1.img")
uuid=${uuid#*:}
umount_vd "$MNT"
meta=$SRC/.vdiskfs/disks/$uuid
[ -s "$meta/meta.mdb" ] || fail "no metadata at $meta"
cp -a "$meta" "$T/meta"

damage_meta() {
    case $1 in
    flipped) printf '\377' | dd of="$meta/meta.mdb" bs=1 seek=9000 conv=notrunc status=none ;;
    truncated) truncate -s 5000 "$meta/meta.mdb" ;;
    empty) truncate -s 0 "$meta/meta.mdb" ;;
    foreign) head -c 32768 /dev/urandom >"$meta/meta.mdb" ;;
    esac
}

for how in flipped truncated empty foreign; do
    damage_meta $how
    mount_vd "$SRC" "$MNT"
    assert_fails "reading a disk whose metadata is $how" cat "$MNT/d1.img"
    grep -q "d1.img: refused:.*meta.mdb" "$(vd_log "$MNT")" || fail "$how: not named in the log"
    assert_same "the other disk" "$MNT/d2.img" "$T/e2"
    assert_eq "state in ls" "$(vdisk --json ls "$MNT" 2>/dev/null | jq -r '.disks[] | select(.name == "d1.img").state')" refused
    assert_fails "check" vdisk check "$MNT"
    vdisk --json check "$MNT" >"$T/check.json" || true
    jq -e '.errors | length > 0' "$T/check.json" >/dev/null || fail "$how: check found nothing"
    umount_vd "$MNT"
    rm -rf "$meta"
    cp -a "$T/meta" "$meta"
    ok "metadata $how"
done
mount_vd "$SRC" "$MNT"
both_are_right "with the metadata back"
umount_vd "$MNT"

cache=$T/cache-src
damage_cache() {
    case $1 in
    data-bytes) dd if=/dev/urandom of="$cache/data" bs=4096 seek=3 count=40 conv=notrunc status=none ;;
    data-short) truncate -s 100000 "$cache/data" ;;
    slots-bytes) dd if=/dev/urandom of="$cache/slots" bs=64 seek=70 count=9 conv=notrunc status=none ;;
    slots-head) printf zzzz | dd of="$cache/slots" bs=1 conv=notrunc status=none ;;
    slots-short) truncate -s 5000 "$cache/slots" ;;
    slots-gone) rm "$cache/slots" ;;
    index-bytes) dd if=/dev/urandom of="$cache/index.mdb" bs=512 seek=9 count=3 conv=notrunc status=none ;;
    index-short) truncate -s 4096 "$cache/index.mdb" ;;
    index-gone) rm "$cache/index.mdb" ;;
    witness) find "$cache/witness" -type f -exec dd if=/dev/urandom of={} bs=8 count=4 conv=notrunc status=none \; ;;
    state) printf zzzz | dd of="$cache/state" bs=1 seek=40 conv=notrunc status=none ;;
    esac
}
for how in data-bytes data-short slots-bytes slots-head slots-short slots-gone index-bytes index-short index-gone \
    witness state; do
    damage_cache $how
    mount_vd "$SRC" "$MNT"
    both_are_right "cache damaged: $how"
    both_are_right "cache damaged: $how, again"
    umount_vd "$MNT"
    ok "cache damaged at rest: $how"
done

# while it is in use
for how in data-bytes data-short slots-bytes slots-short index-short; do
    mount_vd "$SRC" "$MNT"
    both_are_right "before"
    damage_cache $how
    both_are_right "cache damaged in use: $how"
    printf live | dd of="$MNT/d2.img" bs=1 seek=70000 conv=notrunc,fsync status=none
    printf live | dd of="$T/e2" bs=1 seek=70000 conv=notrunc status=none
    both_are_right "cache damaged in use: $how, after a write"
    alive "$(vd_pid "$MNT")" || fail "$how: the daemon died"
    umount_vd "$MNT"
    mount_vd "$SRC" "$MNT"
    both_are_right "cache damaged in use: $how, after a remount"
    umount_vd "$MNT"
    ok "cache damaged in use: $how"
done
