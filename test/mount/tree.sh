#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole tree: the same calls in a plain folder and in the mount must have the same results, the source
# must hold what the mount shows, and nothing may lead out of it.
. "$(dirname "$0")/lib.sh"
mount_vd "$SRC" "$MNT" --cache-size=16M
REF=$T/ref
mkdir "$REF"
NOBODY=65534
as_nobody() {
    setpriv --reuid=$NOBODY --regid=$NOBODY --clear-groups "$@"
}
chmod 755 "$T"

# What a tree looks like, without what is allowed to differ (sizes of folders, inode numbers, atime, ctime).
# The root's link count tells of the hidden folder.
picture() {
    (cd "$1" && find . -mindepth 1 -path ./.vdiskfs -prune -o -mindepth 1 \
        \( -type d -printf '%P %y %m %n %U %G\n' -o -printf '%P %y %m %n %U %G %s %l\n' \) | sort)
    (cd "$1" && find . -path ./.vdiskfs -prune -o -type f -print0 | sort -z | xargs -0r cksum)
}

# Prints what came of each command, so that two runs can be compared.
try() {
    local status=0
    "$@" 2>&1 | sed "s|$PWD|.|g" || status=$?
    echo "$1 -> $status"
}

names() {
    umask 022
    try mkdir a a/b
    try mkdir a
    try touch a/f
    echo one >a/f
    echo two >>a/f
    cat a/f
    try ln a/f a/hard
    try ln -s f a/soft
    try ln -s /etc/hostname a/absolute
    try ln -s "$(printf 'x%.0s' {1..200})" a/dangling
    readlink a/soft a/absolute a/dangling
    try mkfifo a/fifo
    try mknod a/null c 1 3
    try mknod a/plain b 7 200
    try rmdir a
    try mv a/f a/g
    try mv a/g a/b/g
    try mv a/b a/c
    cat a/c/g
    try mv a/nothing a/x
    try unlink a/nothing
    try rmdir a/hard
    try rm a/hard
    try rm a/c
    try touch "a/$(printf 'n%.0s' {1..255})"
    try touch "a/$(printf 'n%.0s' {1..256})"
    try touch 'a/with space' $'a/new\nline' 'a/-dash' 'a/ümlaut'
    for i in $(seq 300); do : >"a/many$i"; done
    ls a | sort | cksum
    rm a/many*
}

attributes() {
    umask 027
    mkdir m
    : >m/f
    mkdir m/d
    umask 022
    try chmod 4751 m/f
    stat -c '%a' m/f m/d
    try chown 1000:1001 m/f
    stat -c '%a %u %g' m/f
    try chown -h 1:2 a/soft
    stat -c '%u %g' a/soft
    try touch -d '2001-02-03 04:05:06.123456789' m/f
    stat -c '%y' m/f
    try touch -h -d '2002-02-03 04:05:06.5' a/soft
    stat -c '%y' a/soft
    try touch -a -d '1999-01-01 00:00:00' m/f
    stat -c '%x %y' m/f
    try truncate -s 12345 m/f
    stat -c '%s' m/f
    try truncate -s 100 m/f
    cksum <m/f
    mkdir m/setgid
    chgrp 1234 m/setgid
    chmod 2775 m/setgid
    mkdir m/setgid/d
    : >m/setgid/f
    stat -c '%a %g' m/setgid/d m/setgid/f
}

attrs_extended() {
    : >x
    try setfattr -n user.one -v 1 x
    try setfattr -n user.two -v "$(printf 'v%.0s' {1..500})" x
    try getfattr -d x
    try setfattr -x user.one x
    try setfattr -x user.one x
    try getfattr -n user.none x
    try setfattr -n trusted.t -v t x
    try getfattr -d -m - x
    try setfattr -n user.on.folder -v y a
    try getfattr -d a
}

renames() {
    python3 - <<'PY'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    r = libc.renameat2(-100, a.encode(), -100, b.encode(), flags)
    print("rename", a, b, flags, os.strerror(ctypes.get_errno()) if r else "ok")
for n, t in (("r1", "1"), ("r2", "22")):
    open(n, "w").write(t)
os.mkdir("rd")
rename("r1", "r2", 1)
rename("r1", "r3", 1)
rename("r3", "r2", 2)
print(open("r3").read(), open("r2").read())
rename("rd", "r2", 2)
print(os.path.isdir("r2"), open("rd").read())
rename("r2", "r2/inside", 0)
rename("r3", "r2", 0)
rename("rd", "r3", 0)
rename("r3", "gone", 2)
print(open("r3").read())
PY
}

files() {
    python3 - <<'PY'
import errno, fcntl, mmap, os
def show(what, f):
    try:
        print(what, f())
    except OSError as e:
        print(what, errno.errorcode[e.errno])
fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
show("again", lambda: os.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL))
show("write", lambda: os.pwrite(fd, b"x" * 10000, 5000))
show("read", lambda: (os.pread(fd, 20000, 0) == b"\0" * 5000 + b"x" * 10000))
show("past the end", lambda: os.pread(fd, 10, 15000))
show("append", lambda: os.write(os.open("file", os.O_WRONLY | os.O_APPEND), b"tail"))
show("size", lambda: os.fstat(fd).st_size)
show("trunc", lambda: os.close(os.open("file", os.O_WRONLY | os.O_TRUNC)))
show("size", lambda: os.fstat(fd).st_size)
show("fallocate", lambda: os.posix_fallocate(fd, 0, 100000))
show("size", lambda: os.fstat(fd).st_size)
show("write", lambda: os.pwrite(fd, b"y" * 65536, 0))
os.fsync(fd)
os.fdatasync(fd)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(mode, off, n):
    r = libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(n))
    return os.strerror(ctypes.get_errno()) if r else "ok"
show("punch", lambda: fallocate(3, 8192, 8192))
show("zero", lambda: fallocate(0x10, 20480, 4096))
show("zero past", lambda: fallocate(0x10, 100000, 4096))
show("keep size", lambda: fallocate(1, 200000, 4096))
show("size", lambda: os.fstat(fd).st_size)
show("bytes", lambda: [i for i in range(0, 65536, 4096) if os.pread(fd, 1, i) == b"\0"])
show("hole", lambda: os.lseek(fd, 0, os.SEEK_HOLE))
show("data", lambda: os.lseek(fd, 8192, os.SEEK_DATA))
show("no data", lambda: os.lseek(fd, 10**9, os.SEEK_DATA))
os.lseek(fd, 0, os.SEEK_SET)
out = os.open("copied", os.O_RDWR | os.O_CREAT)
n = 0
while (r := os.copy_file_range(fd, out, 1 << 20)) > 0:
    n += r
show("copied", lambda: (n, os.pread(out, 200000, 0) == os.pread(fd, 200000, 0)))
ro = os.open("file", os.O_RDONLY)
show("mapped", lambda: mmap.mmap(ro, 4096, mmap.MAP_SHARED, mmap.PROT_READ)[:3])
show("write to a reader", lambda: os.write(ro, b"z"))
show("ioctl", lambda: fcntl.ioctl(ro, 0x5401, b"0" * 64))
os.unlink("file")
show("unlinked", lambda: (os.pwrite(fd, b"still", 0), os.pread(fd, 5, 0), os.fstat(fd).st_nlink))
show("direct", lambda: os.close(os.open("copied", os.O_RDWR | os.O_DIRECT)))
d = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
show("fsyncdir", lambda: os.fsync(d))
show("open a folder", lambda: os.open("a", os.O_WRONLY))
show("through a link", lambda: os.open("a/soft", os.O_RDONLY | os.O_NOFOLLOW))
PY
}

for part in names attributes attrs_extended renames files; do
    (cd "$REF" && $part) >"$T/ref.out" 2>&1
    (cd "$MNT" && $part) >"$T/mnt.out" 2>&1
    diff -u "$T/ref.out" "$T/mnt.out" >&2 || fail "$part: the mount (+) differs from a plain folder (-)"
    [ -s "$T/ref.out" ] || fail "$part printed nothing"
    ok "$part"
done
diff <(picture "$REF") <(picture "$MNT") >&2 || fail "the trees differ"
diff <(picture "$SRC") <(picture "$MNT") >&2 || fail "source and mount differ"
ok "the source holds what the mount shows"

# O_TMPFILE is refused, so that callers use a named file
python3 - "$MNT" <<'EOF' || fail "O_TMPFILE"
import errno, os, sys
try:
    os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR)
except OSError as e:
    sys.exit(e.errno != errno.EOPNOTSUPP)
sys.exit(1)
EOF
ok "O_TMPFILE"
assert_fails "a range that would be cut out" fallocate -c -o 4096 -l 4096 "$MNT/copied"

# statfs is the source's
assert_eq "blocks of statfs" "$(stat -f -c '%b %s %l' "$MNT")" "$(stat -f -c '%b %s %l' "$SRC")"

# the private folder: there, and not shown
[ -d "$SRC/.vdiskfs" ] || fail "no private folder in the source"
[ -z "$(find "$MNT" -name .vdiskfs)" ] || fail "the private folder is listed"
for call in "stat .vdiskfs" "ls .vdiskfs/disks" "rmdir .vdiskfs" "mkdir .vdiskfs" "touch .vdiskfs" \
    "mv .vdiskfs seen" "mv -T a .vdiskfs" "ln -sT x .vdiskfs" "ln -T x .vdiskfs" "mkfifo .vdiskfs"; do
    # shellcheck disable=SC2086
    (cd "$MNT" && assert_fails "$call" $call)
done
[ -d "$SRC/.vdiskfs/disks" ] || fail "the private folder was reached"
mkdir "$MNT/a/.vdiskfs" || fail "the name is ours in the root only"
ok "private folder"

# our attribute: not listed, not read, not set
truncate -s 2M "$SRC/disk.img"
head -c 10 "$MNT/disk.img" >/dev/null
wait_for "getfattr -n user.vdiskfs '$SRC/disk.img' >/dev/null 2>&1" 10
setfattr -n user.other -v o "$MNT/disk.img"
assert_eq "names of attributes" "$(getfattr -m - "$MNT/disk.img" 2>/dev/null | grep -v '^#' | tr -d '\n')" user.other
assert_fails "reading our attribute" getfattr -n user.vdiskfs "$MNT/disk.img"
assert_fails "setting our attribute" setfattr -n user.vdiskfs -v x "$MNT/disk.img"
assert_fails "removing our attribute" setfattr -x user.vdiskfs "$MNT/disk.img"
cp -a "$MNT/disk.img" "$MNT/disk2.img"
assert_fails "our attribute on a copy" getfattr -n user.vdiskfs "$SRC/disk2.img"
ok "our attribute"

# the larger files, which are disks, are copied through their disks, on either side
random_file "$T/ref.img" 3M 5
cp "$T/ref.img" "$SRC/from.img"
truncate -s 3M "$SRC/to.img"
python3 - "$MNT" <<'EOF' || fail "copy_file_range of disks"
import os, sys
def copy(source, target, n, off_in, off_out):
    a, b = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    while n > 0:
        r = os.copy_file_range(a, b, n, off_in, off_out)
        if r == 0:
            break
        n, off_in, off_out = n - r, off_in + r, off_out + r
    os.close(a)
    os.close(b)
os.chdir(sys.argv[1])
copy("from.img", "to.img", 3 << 20, 0, 0)
copy("from.img", "part", 100000, 12345, 777)
copy("part", "to.img", 100000, 777, 12345)
EOF
assert_same "a disk onto a disk" "$SRC/to.img" "$T/ref.img"
cmp -n 100000 -i 777:12345 "$SRC/part" "$T/ref.img" >&2 || fail "a disk into a file: the bytes differ"
ok "copy_file_range of disks"

# symbolic links in the source are the client's to follow; ours never lead out
mkdir "$T/outside"
echo secret >"$T/outside/secret"
ln -s ../outside "$SRC/out"
assert_eq "a link" "$(readlink "$MNT/out")" ../outside
# a folder that is replaced by a link while it is in use
mkdir "$SRC/swap" "$SRC/real"
echo inside >"$SRC/swap/secret"
(
    trap - EXIT
    end=$((SECONDS + 2))
    while [ "$SECONDS" -lt "$end" ]; do
        mv "$SRC/swap" "$SRC/real/swap"
        ln -s "$T/outside" "$SRC/swap"
        rm "$SRC/swap"
        mv "$SRC/real/swap" "$SRC/swap"
    done
) &
swapper=$!
later $swapper
python3 - "$MNT" <<'EOF' || fail "a path led out of the source"
import os, sys, time
end = time.time() + 2
while time.time() < end:
    try:
        d = os.open(sys.argv[1] + "/swap", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        continue
    try:
        with open("secret", opener=lambda p, f: os.open(p, f, dir_fd=d)) as f:
            if f.read() != "inside\n":
                sys.exit(1)
    except OSError:
        pass
    os.close(d)
EOF
wait $swapper
ok "no way out"

# other users: as the modes say, and what they make is theirs
mkdir "$MNT/shared" "$MNT/closed"
chmod 777 "$MNT/shared"
echo x >"$MNT/closed/file"
chmod 700 "$MNT/closed"
echo x >"$MNT/readable"
chmod 644 "$MNT/readable"
as_nobody touch "$MNT/shared/mine" || fail "another user cannot use what it made"
as_nobody mkdir "$MNT/shared/dir"
as_nobody ln -s x "$MNT/shared/link"
assert_eq "owner of a file" "$(stat -c '%u %g' "$SRC/shared/mine")" "$NOBODY $NOBODY"
assert_eq "owner of a folder" "$(stat -c '%u %g' "$SRC/shared/dir")" "$NOBODY $NOBODY"
assert_eq "owner of a link" "$(stat -c '%u %g' "$SRC/shared/link")" "$NOBODY $NOBODY"
assert_fails "a closed folder" as_nobody cat "$MNT/closed/file"
assert_fails "another's file" as_nobody sh -c "echo y >'$MNT/readable'"
assert_fails "another's mode" as_nobody chmod 777 "$MNT/readable"
assert_fails "the root folder" as_nobody touch "$MNT/new"
chmod 1777 "$MNT/shared"
touch "$MNT/shared/roots"
assert_fails "a sticky folder" as_nobody rm -f "$MNT/shared/roots"
# a write by another clears the set-id bits, as everywhere
cp /bin/true "$MNT/shared/suid"
chmod 4777 "$MNT/shared/suid"
as_nobody sh -c "printf x >>'$MNT/shared/suid'"
assert_eq "mode after another's write" "$(stat -c %a "$SRC/shared/suid")" 777
ok "users"

# a change in the source is seen, at once where names are not concerned
echo longer than before >"$SRC/readable"
assert_eq "a change in the source" "$(cat "$MNT/readable")" "longer than before"
echo new >"$SRC/appeared"
assert_eq "a new file in the source" "$(cat "$MNT/appeared")" new
ok "changes in the source"

umount_vd "$MNT"
