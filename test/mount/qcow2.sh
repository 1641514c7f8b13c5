#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A clone and a qcow2 overlay of the same image get the same random changes: writes, zeroes and discards of any
# size, neighbouring pieces of a block at once, new sizes, snapshots, reverts, clones of the clone, with remounts
# in between. What a client reads of the two is the same after every batch. $1: operations (2000), $2: seed (2).
. "$(dirname "$0")/lib.sh"
operations=${1:-2000}
seed=${2:-2}
RANDOM=$seed

KiB=1024 MiB=$((1024 * 1024))
cluster=$((64 * KiB)) # of the overlays: discarded in whole it is zero
size_least=$((8 * MiB))
size_most=$((20 * MiB))
done_ops=0

pick() { # PICK: a number below $1
    PICK=$(((RANDOM << 15 | RANDOM) % $1))
}

# What was done is told with a failure.
note() {
    echo "$*" >>"$T/operations.log"
}
differ() {
    fail "$* (operation $done_ops of $operations, seed $seed)"
}
must() {
    note "$*"
    "$@" >"$T/out" 2>&1 || differ "$*: $(cat "$T/out")"
}

# ---- a batch of changes, for the disk and for the overlay

on_disk=() on_overlay=()
mode=writeback # QEMU's cache mode in the mount
window=0 # most changes are in the 512 KiB that follow, so that they meet
change() { # the same for both, or another command for the overlay
    on_disk+=(-c "$1")
    on_overlay+=(-c "${2:-$1}")
    done_ops=$((done_ops + 1))
}

# place MOST: OFF and LEN, at most MOST, within the size
place() {
    pick "$1"
    LEN=$((PICK + 1))
    pick 4
    if [ "$PICK" -gt 0 ]; then
        pick $((512 * KiB))
        OFF=$((window + PICK))
    else
        pick "$size"
        OFF=$PICK
    fi
    [ $((OFF + LEN)) -le "$size" ] || OFF=$((size - LEN))
}
aligned() { # OFF and LEN to multiples of $1, within the size
    OFF=$((OFF / $1 * $1))
    LEN=$(((LEN + $1 - 1) / $1 * $1))
    [ $((OFF + LEN)) -le "$size" ] || OFF=$(((size - LEN) / $1 * $1))
}
pattern() {
    pick 255
    P=$((PICK + 1))
}

# Neighbouring pieces at once: what two writes of one block owe each other.
burst() {
    local n piece z
    pick 5
    n=$((PICK + 2))
    place $((n * 6 * KiB))
    piece=$((LEN / n + 1))
    [ $((OFF + n * piece)) -le "$size" ] || OFF=$((size - n * piece))
    while [ "$n" -gt 0 ]; do
        pick 4
        z=$([ "$PICK" -gt 0 ] || echo -z)
        pattern
        change "aio_write ${z:--P $P} $OFF $piece"
        OFF=$((OFF + piece))
        n=$((n - 1))
    done
    on_disk+=(-c aio_flush)
    on_overlay+=(-c aio_flush)
}

one_change() {
    local kind
    pick 100
    kind=$PICK
    pattern
    if [ "$kind" -lt 25 ]; then
        place 9000
        change "write -P $P $OFF $LEN"
    elif [ "$kind" -lt 45 ]; then
        place $((48 * KiB))
        aligned 4096
        change "write -P $P $OFF $LEN"
    elif [ "$kind" -lt 52 ]; then
        place $((600 * KiB))
        change "write -P $P $OFF $LEN"
    elif [ "$kind" -lt 60 ]; then
        place 20000
        change "write -z $OFF $LEN"
    elif [ "$kind" -lt 68 ]; then
        place $((200 * KiB))
        change "write -z -u $OFF $LEN"
    elif [ "$kind" -lt 78 ]; then # QEMU leaves out what is no whole cluster, and with O_DIRECT no whole block
        place $((100 * KiB))
        [ "$mode" != none ] || aligned 4096
        change "discard $OFF $LEN" "write -z $OFF $LEN"
    elif [ "$kind" -lt 84 ]; then
        place $((4 * cluster))
        aligned $cluster
        change "discard $OFF $LEN"
    elif [ "$kind" -lt 92 ]; then
        burst
    elif [ "$kind" -lt 97 ]; then # the cache gets what is changed next
        place $((300 * KiB))
        on_disk+=(-c "read $OFF $LEN")
    else
        on_disk+=(-c flush)
    fi
}

# io FILE FORMAT CACHE COMMAND...: qemu-io, which must have nothing to complain of
io() {
    local file=$1 format=$2 how=$3
    shift 3
    note "qemu-io -f $format -t $how -d unmap $(printf "%s '%s' " "$@")$file"
    qemu-io -f "$format" -t "$how" -d unmap "$@" "$file" >"$T/out" 2>&1 || differ "qemu-io: $(tail -n 3 "$T/out")"
    ! grep -vE '^(wrote|read|discard) [0-9]+/|^[0-9.]+ .* ops; ' "$T/out" >"$T/complaints" ||
        differ "qemu-io: $(cat "$T/complaints")"
}

batch() {
    local left
    on_disk=() on_overlay=()
    pick "$size"
    window=$PICK
    pick 2
    mode=$([ "$PICK" = 0 ] && [ $((size % 4096)) = 0 ] && echo none || echo writeback) # none wants whole blocks
    pick 40
    for ((left = PICK + 5; left > 0 && done_ops < operations; left--)); do
        one_change
    done
    io "$MNT/$disk" raw "$mode" "${on_disk[@]}"
    [ ${#on_overlay[@]} -eq 0 ] || io "$T/$overlay" qcow2 writeback "${on_overlay[@]}"
}

# same DISK OVERLAY: to one who asks for holes and data
same() {
    local how
    pick 2
    how=$([ "$PICK" = 0 ] && echo none || echo writeback)
    note "compare $1 $2"
    qemu-img compare -T "$how" -f raw -F qcow2 "$MNT/$1" "$T/$2" >"$T/out" 2>&1 || differ "$1 and $2: $(cat "$T/out")"
}

# same_bytes DISK OVERLAY: to one who reads everything
same_bytes() {
    qemu-img convert -f qcow2 -O raw "$T/$2" "$T/flat" >"$T/out" 2>&1 || differ "convert: $(cat "$T/out")"
    cmp "$MNT/$1" "$T/flat" >"$T/out" 2>&1 || differ "$1 and $2, read whole: $(cat "$T/out")"
}

# ---- what is done with disks. The overlay keeps its snapshots inside itself

disk='' overlay=''
size=0
ndisks=0
snapshots=() # of the current disk: names
sizes=()     # and sizes
nnames=0
former=() # "DISK OVERLAY" of those before the current, which nobody changes any more

# A close is noticed by the daemon a moment later, and some commands refuse an open disk.
closed() {
    ! vdisk --json info "$MNT/$1" | jq -e .attached >/dev/null
}

mount_it() {
    # so small that it evicts, and with it off, too
    local how=(--cache-size=8M --cache-size=64M --cache-size=8M --cache-mode=writearound --cache-mode=off)
    pick ${#how[@]}
    mounted_with=${how[PICK]}
    note "mount $mounted_with"
    mount_vd "$SRC" "$MNT" "$mounted_with"
}

# next DISK OVERLAY: they are the current ones from now on
next() {
    [ -z "$disk" ] || former+=("$disk $overlay")
    disk=$1 overlay=$2
    snapshots=() sizes=()
    ndisks=$((ndisks + 1))
}

take_snapshot() {
    nnames=$((nnames + 1))
    must vdisk snapshot "$MNT/$disk" "s$nnames"
    must qemu-img snapshot -c "s$nnames" "$T/$overlay"
    snapshots+=("s$nnames")
    sizes+=("$size")
}

revert() {
    local at
    pick ${#snapshots[@]}
    at=$PICK
    wait_for "closed $disk" 20
    must vdisk revert "$MNT/$disk" "${snapshots[at]}"
    must qemu-img snapshot -a "${snapshots[at]}" "$T/$overlay"
    size=${sizes[at]}
}

remove_snapshot() {
    local at
    pick ${#snapshots[@]}
    at=$PICK
    must vdisk snapshot-rm "$MNT/$disk" "${snapshots[at]}"
    must qemu-img snapshot -d "${snapshots[at]}" "$T/$overlay"
    unset "snapshots[at]" "sizes[at]"
    snapshots=("${snapshots[@]}")
    sizes=("${sizes[@]}")
}

# A clone of what a snapshot holds, beside a copy of the overlay that was reverted to it; now and then they go on.
fork() {
    local at child=disk-$ndisks.raw copy=disk-$ndisks.qcow2 held
    pick ${#snapshots[@]}
    at=$PICK
    held=${sizes[at]}
    must vdisk clone "$MNT/$disk" "$MNT/$child" --snapshot "${snapshots[at]}"
    must cp "$T/$overlay" "$T/$copy"
    must qemu-img snapshot -a "${snapshots[at]}" "$T/$copy"
    same "$child" "$copy"
    pick 3
    if [ "$PICK" -gt 0 ]; then
        wait_for "closed $child" 20
        must vdisk rm "$MNT/$child"
        rm "$T/$copy"
    else
        next "$child" "$copy"
        size=$held
    fi
}

clone() {
    local child=disk-$ndisks.raw over=disk-$ndisks.qcow2
    must vdisk clone "$MNT/$disk" "$MNT/$child"
    must qemu-img create -q -f qcow2 -b "$T/$overlay" -F qcow2 "$T/$over"
    next "$child" "$over"
}

new_size() { # size: one in [$1, $2], half of them whole blocks
    local unit=512
    pick 2
    [ "$PICK" = 0 ] || unit=4096
    pick $((($2 - $1) / unit + 1))
    size=$((($1 + PICK * unit + unit - 1) / unit * unit))
    [ "$size" -le "$2" ] || size=$2
}

grow() {
    new_size "$size" $size_most
    pick 2
    if [ "$PICK" = 0 ]; then
        must vdisk resize "$MNT/$disk" "$size"
    else
        must qemu-img resize -q -f raw "$MNT/$disk" "$size"
    fi
    must qemu-img resize -q "$T/$overlay" "$size"
}

shrink() {
    local old=$size
    new_size $size_least "$size"
    # qcow2 keeps what its last cluster holds past the end, and shows it again when it grows
    [ "$size" -eq "$old" ] || io "$T/$overlay" qcow2 writeback -c "write -z $size $((old - size))"
    wait_for "closed $disk" 20
    must vdisk resize --shrink "$MNT/$disk" "$size"
    must qemu-img resize -q --shrink "$T/$overlay" "$size"
}

remount() {
    umount_vd "$MNT"
    mount_it
}

one_deed() {
    local kind have=${#snapshots[@]}
    pick 100
    kind=$PICK
    if [ "$kind" -lt 34 ]; then
        take_snapshot
    elif [ "$kind" -lt 48 ]; then
        [ "$have" -eq 0 ] || revert
    elif [ "$kind" -lt 54 ]; then
        [ "$have" -eq 0 ] || remove_snapshot
    elif [ "$kind" -lt 62 ]; then
        [ "$have" -eq 0 ] || fork
    elif [ "$kind" -lt 70 ]; then
        clone
    elif [ "$kind" -lt 79 ]; then
        grow
    elif [ "$kind" -lt 85 ]; then
        shrink
    elif [ "$kind" -lt 88 ]; then
        [ "$have" -gt 0 ] || must vdisk flatten "$MNT/$disk"
    elif [ "$kind" -lt 92 ]; then
        [ "$mounted_with" = --cache-mode=off ] || must vdisk cache flush "$MNT"
    else
        remount
    fi
}

# ---- the story

size=$((12 * MiB + 5 * 512)) # no multiple of a block
random_file "$SRC/base.raw" $size "$seed"
cp "$SRC/base.raw" "$T/base.raw"
mount_it
note vdisk clone base.raw disk-0.raw
vdisk clone "$MNT/base.raw" "$MNT/disk-0.raw"
must qemu-img create -q -f qcow2 -b "$T/base.raw" -F raw "$T/disk-0.qcow2"
next disk-0.raw disk-0.qcow2

while [ "$done_ops" -lt "$operations" ]; do
    batch
    same "$disk" "$overlay"
    one_deed
    assert_eq "size of $disk" "$(file_bytes "$MNT/$disk")" "$size"
    same "$disk" "$overlay"
done
same_bytes "$disk" "$overlay"
ok "$done_ops changes, ${#former[@]} clones, $nnames snapshots: the same"

verify_all() {
    local pair
    for pair in "${former[@]}" "$disk $overlay"; do
        # shellcheck disable=SC2086 # two words
        same_bytes $pair
    done
    assert_same "the image that was cloned" "$MNT/base.raw" "$T/base.raw"
}
verify_all
umount_vd "$MNT"
mount_it
verify_all
must vdisk check "$MNT"
umount_vd "$MNT"
ok "all of their parents are as they were, after a remount too"
