# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# The servers that are measured against each other; source ../test/lib/common.sh and mount.sh first.
#
#   start_NAME IMAGE    serves IMAGE and leaves the path of the file to measure in $TARGET
# All run until the script ends; common.sh unmounts them and ends what is left.

TARGET=

# A test of the bench itself, without vdiskfs: VD_BENCH_SUBJECT=nullfs
start_vdiskfs() {
    local image=$1 source mnt=$T/vdiskfs
    if [ "${VD_BENCH_SUBJECT:-vdiskfs}" = nullfs ]; then
        start_nullfs_at "$mnt" "$image"
        return
    fi
    source=$(dirname "$image")
    mount_vd "$source" "$mnt" --cache-size=2G
    TARGET=$mnt/${image##*/}
}

start_nullfs_at() {
    local mnt=$1 image=$2
    mkdir -p "$mnt"
    "$VD_BUILD/bench/nullfs" "$mnt" "$(file_bytes "$image")" >"$mnt.log" 2>&1 &
    later $!
    wait_for "mounted '$mnt'" 20
    TARGET=$mnt/disk.img
}

start_nullfs() {
    start_nullfs_at "$T/nullfs" "$1"
}

# qemu-storage-daemon's export is a file mounted on a file.
start_qsd() {
    local image=$1 point=$T/qsd-${1##*/}
    : >"$point"
    qemu-storage-daemon \
        --blockdev "driver=file,node-name=file,filename=$image,cache.direct=off" \
        --blockdev driver=raw,node-name=disk,file=file \
        --export "type=fuse,id=export,node-name=disk,mountpoint=$point,writable=on" >"$point.log" 2>&1 &
    later $!
    wait_for "grep -q ' $point fuse' /proc/self/mounts" 20
    TARGET=$point
}

start_nbd() {
    local image=$1 socket=$T/nbd.sock point=$T/nbd
    # the filter keeps its cache in a file of $TMPDIR
    TMPDIR=$T nbdkit -f -U "$socket" --filter=cache file "$image" cache-on-read=true >"$T/nbdkit.log" 2>&1 &
    later $!
    wait_for "[ -S '$socket' ]" 20
    : >"$point"
    nbdfuse "$point" --unix "$socket" >"$T/nbdfuse.log" 2>&1 &
    later $!
    wait_for "grep -q ' $point fuse' /proc/self/mounts" 20
    TARGET=$point
}
