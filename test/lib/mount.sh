# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Mounts for shell tests; source common.sh first.
#
#   mount_vd SOURCE MOUNTPOINT [OPTIONS...]   starts vdiskfs -f and waits until the mount answers; fails otherwise.
#                                             Its cache is a folder of $T named after the source, of 256 MiB (a share
#                                             of the host's disk would be gigabytes), unless given
#   umount_vd MOUNTPOINT                      umount, and wait until the daemon has detached and exited with 0
#   kill_vd MOUNTPOINT                        SIGKILL, and clear the dead mount away
#   vd_pid MOUNTPOINT, vd_log MOUNTPOINT
#   vd_env=(NAME=VALUE...)                    environment for the daemons that are started from here on
#   stat_of PATH KEY                          one number of `vdisk --json cache stats`; PATH is the mountpoint, or
#                                             a disk that is open

vd_env=()
declare -A VD_PIDS=() VD_LOGS=()
VD_MOUNTS=0

vdisk() {
    "$VD_BUILD/vdisk" "$@"
}

vd_pid() {
    echo "${VD_PIDS[$1]}"
}

vd_log() {
    echo "${VD_LOGS[$1]}"
}

# Is there a mount, and does it answer?
mounted() {
    grep -q " $1 fuse" /proc/self/mounts && timeout 10 stat "$1/." >/dev/null 2>&1
}

# Starts it only: sets VD_PIDS and VD_LOGS. For tests of a mount that must fail.
start_vd() {
    local source=$1 mnt=$2 option cache=("--cache=$T/cache-${1##*/}") size=("--cache-size=256M")
    shift 2
    for option in "$@"; do
        case $option in
        --cache=*) cache=() ;;
        --cache-size=*) size=() ;;
        --cache-daemon=*) cache=() size=() ;;
        esac
    done
    VD_MOUNTS=$((VD_MOUNTS + 1))
    VD_LOGS[$mnt]=$T/vdiskfs-$VD_MOUNTS.log
    mkdir -p "$mnt"
    env "${vd_env[@]}" "$VD_BUILD/vdiskfs" -f "$source" "$mnt" "${cache[@]}" "${size[@]}" "$@" \
        >"${VD_LOGS[$mnt]}" 2>&1 </dev/null &
    VD_PIDS[$mnt]=$!
    later $!
}

mount_vd() {
    local mnt=$2
    start_vd "$@"
    wait_for "mounted '$mnt' || ! alive ${VD_PIDS[$mnt]}" 60
    mounted "$mnt" || fail "vdiskfs $1 $mnt did not mount"
}

# await_vd MOUNTPOINT [SECONDS]: waits for the end of its daemon; its exit status is in VD_STATUS
await_vd() {
    local pid=${VD_PIDS[$1]} status=0
    wait_for "! alive $pid" "${2:-60}"
    wait "$pid" 2>/dev/null || status=$?
    VD_STATUS=$status
}

umount_vd() {
    umount "$1" || fail "umount $1"
    await_vd "$1"
    assert_eq "exit status of the daemon of $1" "$VD_STATUS" 0
}

kill_vd() {
    kill -9 "${VD_PIDS[$1]}"
    await_vd "$1"
    umount -l "$1" 2>/dev/null || true
}

stat_of() {
    vdisk --json cache stats "$1" | jq -e ".$2"
}

# reads_backing PATH COMMAND...: the bytes that were read from the backing of PATH's mount during COMMAND, in
# BACKING_BYTES. What the command prints goes where it goes.
reads_backing() {
    local path=$1 before after
    shift
    before=$(stat_of "$path" backing_read_bytes) || fail "no cache stats of $path"
    "$@"
    after=$(stat_of "$path" backing_read_bytes) || fail "no cache stats of $path"
    BACKING_BYTES=$((after - before))
}
