#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Disks with layers as clients of the mount see them: one file with the disk's size, times and bytes, whatever
# its file in the source holds; and the commands of the control socket that change them, asked as a program asks.
. "$(dirname "$0")/lib.sh"

cat >"$T/ctl.py" <<'PY'
# ctl.py RUNDIR COMMAND ARGS [FILE]: prints the answer; exit 1 where it is an error
import glob, json, os, socket, sys
run, command, args = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if len(sys.argv) > 4:
    st = os.stat(sys.argv[4])
    args.update(dev=st.st_dev, ino=st.st_ino)
    args.setdefault("path", os.path.relpath(sys.argv[4], os.environ["SRC"]))
s = socket.socket(socket.AF_UNIX)
s.connect(glob.glob(run + "/*/sock")[0])
s.sendall((json.dumps({"command": command, "args": args}) + "\n").encode())
line = s.makefile().readline()
print(line, end="")
sys.exit(0 if "ok" in json.loads(line) else 1)
PY
export SRC
ctl() {
    timeout 60 python3 "$T/ctl.py" "$VDISKFS_RUNDIR" "$@"
}

# refused ERRNO WORDS CTL-ARGS...: the command must fail with that errno, and its sentence have these words
refused() {
    local errno=$1 words=$2
    shift 2
    assert_fails "$*" ctl "$@"
    assert_eq "errno of $*" "$(jq .error.errno "$T/fails.out")" "$errno"
    jq -er .error.what "$T/fails.out" | grep -q "$words" || fail "$*: $(cat "$T/fails.out")"
}

# job ARGS...: begins one and waits for its end; its state is in JOB
job() {
    local id
    id=$(ctl "$@" | jq -e .ok.job) || fail "$* did not begin"
    wait_for "! ctl job '{\"job\":$id}' | grep -q '\"running\"'" 60
    JOB=$(ctl job "{\"job\":$id}" | jq -r .ok.state)
}

layered() {
    getfattr --absolute-names -n user.vdiskfs.layered "$1" >/dev/null 2>&1
}

# seek FILE OFFSET: prints where data and where a hole are from there on
seek() {
    python3 - "$@" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
def at(whence):
    try:
        return os.lseek(fd, int(sys.argv[2]), whence)
    except OSError as e:
        return e.strerror
print(at(os.SEEK_DATA), at(os.SEEK_HOLE))
PY
}

M=1048576
mount_vd "$SRC" "$MNT" --cache-size=32M
random_file "$T/bytes" $((4 * M)) 7
cp "$T/bytes" "$MNT/disk"
truncate -s $((8 * M)) "$MNT/disk" "$T/bytes"
ctl snapshot '{"name":"first"}' "$SRC/disk" >/dev/null
layered "$SRC/disk" || fail "the snapshot left no mark on the file: nothing below tests what it should"
assert_same "after a snapshot" "$MNT/disk" "$T/bytes"

# ---- attributes
assert_eq "links" "$(stat -c %h "$MNT/disk")" 1
assert_eq "links in the source" "$(stat -c %h "$SRC/disk")" 2
before=$(stat -c '%s %Y' "$SRC/disk")
printf later | dd of="$MNT/disk" bs=1 seek=$((9 * M)) conv=notrunc,fsync status=none
printf later | dd of="$T/bytes" bs=1 seek=$((9 * M)) conv=notrunc status=none
assert_eq "size" "$(stat -c %s "$MNT/disk")" $((9 * M + 5))
assert_eq "size by ls -l" "$(ls -l "$MNT" | awk '$NF == "disk" {print $5}')" $((9 * M + 5))
touch -d '2001-02-03 04:05:06' "$MNT/disk"
assert_eq "mtime" "$(stat -c %y "$MNT/disk" | cut -c1-19)" '2001-02-03 04:05:06'
assert_eq "size and mtime of the frozen file" "$(stat -c '%s %Y' "$SRC/disk")" "$before"
chmod 640 "$MNT/disk"
chown 12:34 "$MNT/disk"
assert_eq "mode and owner" "$(stat -c '%a %u %g' "$MNT/disk")" '640 12 34'
chown 0:0 "$MNT/disk"
assert_same "after chmod and touch" "$MNT/disk" "$T/bytes"
ok "size, times, links"

# ---- names and attributes that are ours
assert_fails "a second name" ln "$MNT/disk" "$MNT/second"
grep -q 'Too many links' "$T/fails.out" || fail "a second name: $(cat "$T/fails.out")"
for a in user.vdiskfs user.vdiskfs.layered; do
    assert_fails "get $a" getfattr -n $a "$MNT/disk"
    assert_fails "set $a" setfattr -n $a -v 1:own "$MNT/disk"
    assert_fails "remove $a" setfattr -x $a "$MNT/disk"
done
assert_eq "attributes" "$(getfattr --absolute-names -d -m - "$MNT/disk" 2>/dev/null | grep -c vdiskfs)" 0
layered "$SRC/disk" || fail "our attribute could be removed through the mount"
mv "$MNT/disk" "$MNT/moved"
mv "$MNT/moved" "$MNT/disk"
assert_same "after renames" "$MNT/disk" "$T/bytes"
ok "names and extended attributes"

# ---- bytes: everything that reads or writes goes through the disk
assert_fails "no clone yet" stat "$MNT/clone"
ctl clone '{"child":"clone"}' "$SRC/disk" >/dev/null
assert_eq "a new clone is there at once" "$(stat -c %s "$MNT/clone")" $((9 * M + 5))
assert_same "a clone" "$MNT/clone" "$T/bytes"
cp "$T/bytes" "$T/clone"
assert_eq "data of the parent's" "$(seek "$MNT/clone" 0)" "0 $((4 * M))"
for f in "$MNT/clone" "$T/clone"; do
    fallocate -p -o $M -l $M "$f"
    fallocate -z -o $((2 * M)) -l 65536 "$f"
    fallocate -l 4096 -o $((10 * M)) "$f"
    dd if="$T/bytes" of="$f" bs=64K count=1 seek=100 conv=notrunc status=none
done
assert_same "after punch, zero, allocate, write" "$MNT/clone" "$T/clone"
assert_eq "a hole where the parent has data" "$(seek "$MNT/clone" $M | cut -d' ' -f2)" $M
assert_eq "no data past the end" "$(seek "$MNT/clone" $((64 * M)) | tr -d ' ')" \
    "Nosuchdeviceoraddress""Nosuchdeviceoraddress"
python3 - "$MNT/clone" "$MNT/copied" <<'PY'
import os, sys
a, b = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o600)
left = os.fstat(a).st_size
while left:
    n = os.copy_file_range(a, b, left)
    assert n > 0
    left -= n
PY
assert_same "copy_file_range" "$MNT/copied" "$T/clone"
assert_same "the parent, meanwhile" "$MNT/disk" "$T/bytes"
: >"$MNT/clone"
assert_eq "truncated by open" "$(stat -c %s "$MNT/clone")" 0
truncate -s $((2 * M)) "$MNT/clone"
cmp -n $((2 * M)) "$MNT/clone" /dev/zero || fail "cut and grown, and old bytes are back"
assert_same "the parent after the clone was cut" "$MNT/disk" "$T/bytes"
ok "reads, writes, holes, copies"

# ---- what depends on what
assert_fails "rm of a parent" rm -f "$MNT/disk"
grep -q 'busy' "$T/fails.out" || fail "rm of a parent: $(cat "$T/fails.out")"
cp "$T/bytes" "$MNT/other"
assert_fails "rename over a parent" mv -f "$MNT/other" "$MNT/disk"
grep -q 'disk: keeps its name: .*clone' "$(vd_log "$MNT")" || fail "the log does not say who depends on it"
assert_same "the parent" "$MNT/disk" "$T/bytes"
refused 16 clone rm '{}' "$SRC/disk"
stat "$MNT/clone" >/dev/null
ctl rm '{}' "$SRC/clone" >/dev/null
assert_fails "a name that was removed by the socket" stat "$MNT/clone"
ctl clone '{"child":"clone"}' "$SRC/disk" >/dev/null
python3 - "$MNT/clone" "$T/ctl.py" <<'PY' || fail "a disk that is gone could be opened by what the kernel remembers"
import errno, os, subprocess, sys
fd = os.open(sys.argv[1], os.O_PATH)
os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
subprocess.run([sys.executable, sys.argv[2], os.environ["VDISKFS_RUNDIR"], "rm", "{}", os.environ["SRC"] + "/clone"],
               check=True, stdout=subprocess.DEVNULL)
for how in (lambda p: os.open(p, os.O_RDWR), lambda p: os.truncate(p, 0)):
    try:
        how(f"/proc/self/fd/{fd}")
        sys.exit(1)
    except OSError as e:
        assert e.errno == errno.ESTALE, e
PY
disks() {
    find "$SRC/.vdiskfs/disks" -mindepth 1 -maxdepth 1 | wc -l
}
cat "$MNT/other" >/dev/null # with its first open it is a disk
before=$(disks)
ctl clone '{"child":"clone"}' "$SRC/disk" >/dev/null
assert_eq "metadata with a clone" "$(disks)" $((before + 1))
rm "$MNT/clone"
assert_fails "unlinked" stat "$SRC/clone"
wait_for "[ \$(disks) -eq $before ]" 20
ctl clone '{"child":"clone"}' "$SRC/disk" >/dev/null
cp "$MNT/other" "$MNT/over"
mv -f "$MNT/over" "$MNT/clone"
wait_for "[ \$(disks) -eq $before ]" 20
assert_same "renamed over a clone" "$MNT/clone" "$MNT/other"
wait_for "[ \$(disks) -eq $((before + 1)) ]" 20
rm "$MNT/clone"
ok "removing"

# ---- unlinked while it is open
ctl clone '{"child":"clone"}' "$SRC/disk" >/dev/null
exec 7<>"$MNT/clone"
rm "$MNT/clone"
assert_eq "links of what is open only" "$(stat -Lc %h /proc/self/fd/7)" 0
assert_same "read through a new open of it" /proc/self/fd/7 "$T/bytes"
printf x >&7
exec 7>&-
ok "open without a name"

# ---- resize, seen by who has it open and had its attributes kept
exec 7<>"$MNT/disk"
printf x >&7
printf x | dd of="$T/bytes" conv=notrunc status=none
for size in $((12 * M)) $((14 * M)) $((16 * M)); do
    stat -Lc %s /proc/self/fd/7 >/dev/null
    ctl resize "{\"size\":$size}" "$SRC/disk" >/dev/null
    assert_eq "size at once" "$(stat -Lc %s /proc/self/fd/7)" "$size"
    # it is owned, so the kernel believes what a lookup says and does not ask again
    assert_eq "size and links by a lookup" "$(stat -c '%s %h' "$MNT/disk")" "$size 1"
    assert_eq "size by a listing" "$(find "$MNT" -name disk -printf %s)" "$size"
done
truncate -s $((16 * M)) "$T/bytes"
refused 22 . resize "{\"size\":$M}" "$SRC/disk"
refused 16 . resize "{\"size\":$M,\"shrink\":true}" "$SRC/disk"
exec 7>&-
assert_same "grown" "$MNT/disk" "$T/bytes"
ok "resize"

# ---- revert, snapshot-rm
wait_for "! ctl info '{}' '$SRC/disk' | jq -e .ok.attached >/dev/null" 20
ctl revert '{"name":"first"}' "$SRC/disk" >/dev/null
assert_eq "size at the snapshot" "$(stat -c %s "$MNT/disk")" $((8 * M))
cmp -n $((4 * M)) "$MNT/disk" "$MNT/other" 1 1 || fail "reverted, and it is not what it was"
refused 2 . revert '{"name":"none"}' "$SRC/disk"
ctl snapshot-rm '{"name":"first"}' "$SRC/disk" >/dev/null
refused 2 . snapshot-rm '{"name":"first"}' "$SRC/disk"
refused 22 . snapshot '{"name":"a/b"}' "$SRC/disk"
ok "revert"

# ---- layers and extents
ctl clone '{"child":"clone"}' "$SRC/disk" >/dev/null
dd if=/dev/urandom of="$MNT/clone" bs=64K count=1 seek=16 conv=notrunc status=none
exec 7<"$MNT/clone"
ctl layers '{}' "$SRC/clone" | jq -e '.ok.layers[0].state == "live" and .ok.layers[1].state == "frozen"' >/dev/null ||
    fail "layers: $(ctl layers '{}' "$SRC/clone")"
ctl info '{}' "$SRC/clone" | jq -e '.ok.layered and (.ok.parent | length) == 32 and .ok.nlayers >= 2' >/dev/null ||
    fail "info: $(ctl info '{}' "$SRC/clone")"
# paged one by one they are the same, cover everything, and the written block is the live layer's
all=$(ctl extents "{\"offset\":0,\"length\":$((64 * M))}" "$SRC/clone" | jq -c '.ok.extents[]')
paged=
at=0
while [ "$at" != null ]; do
    page=$(ctl extents "{\"offset\":$at,\"length\":$((64 * M)),\"max\":1}" "$SRC/clone")
    paged+=$(jq -c '.ok.extents[]' <<<"$page")$'\n'
    at=$(jq .ok.next <<<"$page")
done
assert_eq "extents, paged" "${paged%$'\n'}" "$all"
jq -es --argjson size $((8 * M)) 'reduce .[] as $e (0; if . == $e.start then . + $e.length else error("gap") end) == $size' \
    <<<"$all" >/dev/null || fail "extents: $all"
jq -es --argjson at $M 'any(.[]; .start == $at and .length == 65536 and .depth == 0)' <<<"$all" >/dev/null ||
    fail "extents: $all"
exec 7>&-
ok "layers and extents"

# ---- flatten, while it is open and when it is not
cp "$MNT/clone" "$T/clone"
exec 7<>"$MNT/clone"
job flatten '{}' "$SRC/clone"
assert_eq "flatten" "$JOB" "done"
printf after >&7
printf after | dd of="$T/clone" conv=notrunc status=none
assert_same "flattened under an open" "$MNT/clone" "$T/clone"
exec 7>&-
wait_for "! layered '$SRC/clone'" 20
assert_same "a plain file now" "$SRC/clone" "$T/clone"
assert_same "by the mount" "$MNT/clone" "$T/clone"
assert_eq "size" "$(stat -c %s "$MNT/clone")" "$(stat -c %s "$T/clone")"
ctl clone '{"child":"again"}' "$SRC/clone" >/dev/null
dd if=/dev/urandom of="$MNT/again" bs=64K count=1 conv=notrunc status=none
cp "$MNT/again" "$T/again"
wait_for "! ctl info '{}' '$SRC/again' | jq -e .ok.attached >/dev/null" 20
stat "$MNT/again" >/dev/null
job flatten '{}' "$SRC/again"
assert_eq "flatten" "$JOB" "done"
assert_same "through a name that the kernel knew" "$MNT/again" "$T/again"
! layered "$SRC/again" || fail "flattened, and still marked"
ctl sweep '{}' >/dev/null
ok "flatten"

# ---- a file that is replaced behind the mount is found at once
cat "$MNT/other" >/dev/null
cp "$T/again" "$SRC/new"
mv "$SRC/new" "$SRC/other"
assert_same "replaced" "$MNT/other" "$T/again"

# ---- what the socket refuses
refused 22 name snapshot '{}' "$SRC/disk"
refused 116 renamed snapshot '{"name":"x","path":"other"}' "$SRC/disk"
refused 2 . snapshot '{"name":"x","path":"nothing"}' "$SRC/disk"
refused 22 . snapshot '{"name":"x","path":"../src/disk"}' "$SRC/disk"
refused 22 . snapshot "{\"name\":\"x\",\"path\":\"$SRC/disk\"}" "$SRC/disk"
ln -s . "$SRC/link"
refused 20 . snapshot '{"name":"x","path":"link/disk"}' "$SRC/disk"
refused 1 private clone '{"child":".vdiskfs/clone"}' "$SRC/disk"
refused 20 . clone '{"child":"link/clone"}' "$SRC/disk"
refused 17 . clone '{"child":"other"}' "$SRC/disk"
refused 2 . clone '{"child":"late","snapshot":"none"}' "$SRC/disk"
assert_fails "a clone that was refused" stat "$SRC/late"
refused 2 'no job' job '{"job":1000000}'
refused 2 'no job' job-cancel '{"job":1000000}'
ok "refusals"

umount_vd "$MNT"
ok "all"
