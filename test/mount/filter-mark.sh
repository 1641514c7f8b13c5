#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A disk that must not be read without its filter never is: not while its metadata cannot be had, not when they are
# lost; only who adopts it gets the bytes as they lie there.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"

SRC=$T/src MNT=$T/mnt
mkdir "$SRC"
head -c 64 /dev/urandom >"$T/key"
chmod 600 "$T/key"
yes "the quick brown fox" | head -c 2M >"$T/plain" || true

marked() {
    getfattr --absolute-names -n user.vdiskfs.filtered --only-values "$1" 2>/dev/null
}
# refused WHAT: no byte of it is served, and the log says why
refused() {
    assert_fails "$1: read" cat "$MNT/a.img"
    assert_fails "$1: write" dd if=/dev/zero of="$MNT/a.img" bs=4096 count=1 conv=notrunc
    grep -q "a.img: refused: it must not be read without a filter" "$(vd_log "$MNT")" ||
        fail "$1: no such sentence: $(cat "$(vd_log "$MNT")")"
}
start() {
    mount_vd "$SRC" "$MNT" --cache="$T/cache" --cache-size=64M
}

truncate -s 2M "$SRC/a.img"
start
vdisk filter attach "$MNT/a.img" crypt "key-file=$T/key"
assert_eq "the mark" "$(marked "$SRC/a.img")" 1:required
assert_fails "seen through the mount" getfattr -n user.vdiskfs.filtered "$MNT/a.img"
assert_fails "removed through the mount" setfattr -x user.vdiskfs.filtered "$MNT/a.img"
assert_fails "set through the mount" setfattr -n user.vdiskfs.filtered -v 1:changing "$MNT/a.img"
vdisk filter attach "$MNT/a.img" stats
vdisk filter detach "$MNT/a.img" stats
assert_eq "after a filter that may be missing" "$(marked "$SRC/a.img")" 1:required
dd if="$T/plain" of="$MNT/a.img" bs=64K conv=notrunc,fsync status=none
umount_vd "$MNT"
cp "$SRC/a.img" "$T/cipher"
ok "marked"

uuid=$(basename "$SRC"/.vdiskfs/disks/*)
coproc holder { exec /usr/bin/python3 -c '
import fcntl, sys
f = open(sys.argv[1], "r+b")
fcntl.lockf(f, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()' "$SRC/.vdiskfs/disks/$uuid/lock"; }
read -r said <&"${holder[0]}"
assert_eq "the lock" "$said" held
start
refused "metadata locked"
eval "exec ${holder[1]}>&-"
wait "$holder_PID" || true
assert_same "when they are not" "$MNT/a.img" "$T/plain"
umount_vd "$MNT"
ok "locked"

mv "$SRC/.vdiskfs" "$T/away"
start
refused "metadata lost"
umount_vd "$MNT"
rm -rf "$SRC/.vdiskfs"
mount_vd "$SRC" "$MNT" --read-only
refused "none, and read-only"
umount_vd "$MNT"
rm -rf "$SRC/.vdiskfs"
mv "$T/away" "$SRC/.vdiskfs"
start
assert_same "when they are back" "$MNT/a.img" "$T/plain"
ok "lost, and back"

vdisk snapshot "$MNT/a.img" s
vdisk clone "$MNT/a.img" "$MNT/b.img"
umount_vd "$MNT"
assert_eq "the mark of one with layers" "$(marked "$SRC/a.img")" 1:required
assert_eq "the mark of a clone" "$(marked "$SRC/b.img")" 1:required
start
assert_same "one with layers" "$MNT/a.img" "$T/plain"
assert_same "a clone" "$MNT/b.img" "$T/plain"
vdisk filter detach "$MNT/b.img" crypt
umount_vd "$MNT"
assert_eq "none after the detach" "$(marked "$SRC/b.img" || true)" ""
ok "clone and detach"

cp "$T/cipher" "$SRC/c.img"
setfattr -n user.vdiskfs.filtered -v nonsense "$SRC/c.img"
start
assert_fails "one whose mark is nonsense" cat "$MNT/c.img"
vdisk adopt "$MNT/c.img" --as-plain
assert_same "adopted: as it lies there" "$MNT/c.img" "$T/cipher"
umount_vd "$MNT"
ok "adopted"
