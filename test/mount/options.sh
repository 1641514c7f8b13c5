#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starting: in the background, by mount(8), as from fstab; errors on the terminal with exit 1; stopping.
#
# mount(8) finds the program in its own path only, so the test runs in a mount namespace of its own, where the
# build's program stands in /usr/local/bin. Copies of other people's mounts would stand in it too, and keep those alive
# after their unmount.
[ -n "${VD_OPTIONS_NS:-}" ] || exec env VD_OPTIONS_NS=1 unshare --mount "$0" "$@"
. "$(dirname "$0")/lib.sh"
awk '$3 == "fuse.vdiskfs" {print $2}' /proc/self/mounts | tac | while read -r mnt; do umount -l "$mnt"; done
mount -t tmpfs -o mode=755 bin /usr/local/bin
ln -s "$VD_BUILD/vdiskfs" /usr/local/bin/vdiskfs
export PATH=/usr/local/bin:$PATH
truncate -s 2M "$SRC/disk.img"
echo small >"$SRC/small"
CACHE=("--cache=$T/cache" --cache-size=16M)

# the pid of the daemon that is mounted at $1, by its info file
daemon_of() {
    jq -r --arg m "$1" 'select(.mount == $m) | .pid' "$VDISKFS_RUNDIR"/*/info 2>/dev/null
}
# stops DAEMON by COMMAND and waits for its end
ends() {
    local pid=$1
    shift
    "$@"
    wait_for "! alive $pid" 30
}
started() {
    [ "$(stat -f -c %T "$MNT" 2>/dev/null)" = fuseblk ] || grep -q " $MNT fuse.vdiskfs " /proc/self/mounts ||
        fail "$1: returned before the mount"
    assert_eq "$1: a file" "$(cat "$MNT/small")" small
    DAEMON=$(daemon_of "$MNT")
    [ -n "$DAEMON" ] || fail "$1: no info file"
    later "$DAEMON"
}
# wrong WORDS ARGS...: must exit with 1 and say WORDS
wrong() {
    local words=$1 status=0
    shift
    timeout 60 vdiskfs "$@" >"$T/wrong.out" 2>&1 || status=$?
    assert_eq "exit status of vdiskfs $*" "$status" 1
    grep -qi -- "$words" "$T/wrong.out" || fail "vdiskfs $* says: $(cat "$T/wrong.out"); wanted '$words'"
}

vdiskfs --help >"$T/help.log"
grep -q -- --cache-size "$T/help.log" || fail "--help"
vdiskfs --version | grep -q '^vdiskfs [0-9]' || fail "--version"

(cd "$T" && vdiskfs src mnt --cache=cache --cache-size=16M)
started "in the background"
ends "$DAEMON" umount "$MNT"
ok "in the background, with relative paths"

for signal in TERM INT; do
    vdiskfs "$SRC" "$MNT" "${CACHE[@]}"
    started "for SIG$signal"
    exec 5<"$MNT/disk.img"
    ends "$DAEMON" kill -s "$signal" "$DAEMON"
    exec 5<&-
    grep -q " $MNT " /proc/self/mounts && fail "SIG$signal: still mounted"
    [ -z "$(ls "$VDISKFS_RUNDIR")" ] || fail "SIG$signal: the run directory is not clean"
done
ok "signals"

# a start waits for the one before it, which is stopping
for i in 1 2 3 4 5; do
    vdiskfs "$SRC" "$MNT" "${CACHE[@]}" || fail "start $i after an unmount"
    DAEMON=$(daemon_of "$MNT")
    dd if=/dev/zero of="$MNT/disk.img" bs=1M count=2 conv=notrunc status=none
    umount "$MNT"
done
wait_for "! alive $DAEMON" 30
ok "started again at once"

if command -v mount.fuse3 >/dev/null; then
    mount -t fuse.vdiskfs "$SRC" "$MNT" -o "cache=$T/cache,cache-size=16M,direct-io,noauto,user,_netdev,x-systemd.automount"
    started "mount -t fuse.vdiskfs"
    ends "$DAEMON" umount "$MNT"
    echo "$SRC $MNT fuse.vdiskfs ro,cache=$T/cache,cache-size=16M,nofail,x-test=1 0 0" >"$T/fstab"
    mount -T "$T/fstab" "$MNT"
    started "fstab"
    assert_fails "a write to a read-only mount" touch "$MNT/new"
    ends "$DAEMON" umount "$MNT"
    ok "mount and fstab"
fi

vdiskfs "$SRC" "$MNT" "${CACHE[@]}" --read-only
started "--read-only"
for call in "touch $MNT/new" "rm $MNT/small" "truncate -s 1 $MNT/small" "mkdir $MNT/d" "chmod 600 $MNT/small"; do
    # shellcheck disable=SC2086
    assert_fails "--read-only: $call" $call
done
cksum "$MNT/disk.img" >/dev/null
ends "$DAEMON" umount "$MNT"
ok "--read-only"

vdiskfs "$SRC" "$MNT" --cache-mode=off --meta="$T/meta" --threads=3 --backing-direct=yes --own=open --host-name=h
started "without a cache"
dd if=/dev/zero of="$MNT/disk.img" bs=1M count=1 conv=notrunc status=none
[ -d "$T/meta/disks" ] || fail "--meta: nothing there"
ends "$DAEMON" umount "$MNT"
ok "other options"

# what is wrong is said, and nothing stays behind
wrong 'unknown option' "$SRC" "$MNT" --no-such-option
wrong 'unknown option' "$SRC" "$MNT" "${CACHE[@]}" -o no_such_option
wrong 'usage' "$SRC"
wrong 'more than' "$SRC" "$MNT" extra
wrong 'No such file' "$T/nothing" "$MNT" "${CACHE[@]}"
wrong 'not a directory' "$SRC/small" "$MNT" "${CACHE[@]}"
wrong 'No such file' "$SRC" "$T/nothing" "${CACHE[@]}"
wrong 'not a directory' "$SRC" "$SRC/small" "${CACHE[@]}"
wrong 'same directory' "$SRC" "$SRC" "${CACHE[@]}"
mkdir "$SRC/inside"
wrong 'inside the source' "$SRC" "$SRC/inside" "${CACHE[@]}"
wrong 'cover its own source' "$SRC" "$T" "${CACHE[@]}"
ln -s "$SRC/inside" "$T/into"
for place in "$SRC" "$SRC/inside/new/cache" "$T/into" "$T/into/new"; do
    wrong 'cache is inside the source' "$SRC" "$MNT" --cache="$place" --cache-size=16M
done
wrong 'cover its own cache' "$SRC" "$MNT" --cache="$MNT/cache" --cache-size=16M
[ -z "$(ls -A "$SRC/inside")$(ls -A "$MNT")" ] || fail "a cache was made"
wrong 'must be a size' "$SRC" "$MNT" --cache-size=many
wrong 'must be a size' "$SRC" "$MNT" --cache-slot=2M
wrong 'power of two' "$SRC" "$MNT" --cache-slot=12K
wrong 'one of' "$SRC" "$MNT" --cache-mode=sideways
wrong 'number' "$SRC" "$MNT" --threads=0
wrong 'not available' "$SRC" "$MNT" --coordinator=etcd://127.0.0.1:2379/v
wrong 'not available' "$SRC" "$MNT" --cache-daemon=/run/x
wrong 'small' "$SRC" "$MNT" --cache="$SRC/small" --cache-size=16M
wrong 'metadata' "$SRC" "$MNT" "${CACHE[@]}" --meta="$SRC/small"
grep -q " $T/" /proc/self/mounts && fail "something is mounted"
[ -z "$(ls "$VDISKFS_RUNDIR")" ] || fail "the run directory is not clean"
ok "errors"

# a cache has one user at a time, who is named
mount_vd "$SRC" "$MNT" "${CACHE[@]}"
mkdir "$T/mnt2" "$T/src2"
wrong "pid $(vd_pid "$MNT")" "$T/src2" "$T/mnt2" "${CACHE[@]}"
umount_vd "$MNT"
ok "a cache in use"

# a source that takes no metadata is served all the same, uncached
mkdir "$T/ro"
mount --bind "$SRC" "$T/ro"
mount -o remount,bind,ro "$T/ro"
rm -rf "$SRC/.vdiskfs"
mount_vd "$T/ro" "$MNT" "${CACHE[@]}"
grep -q uncached "$(vd_log "$MNT")" || fail "no warning: $(cat "$(vd_log "$MNT")")"
assert_same "a disk of a read-only source" "$MNT/disk.img" "$SRC/disk.img"
assert_fails "a write" dd if=/dev/zero of="$MNT/disk.img" count=1 conv=notrunc
umount_vd "$MNT"
umount "$T/ro"
ok "a read-only source"
