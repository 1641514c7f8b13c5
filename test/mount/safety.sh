#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What an operator does on a bad day with disks that have layers: metadata deleted, restored too old, a whole source
# restored from a backup of its files. Nothing that can be restored is ever swept, every disk that is refused is
# named with the reason, and what comes back reads as it was, byte for byte.
. "$(dirname "$0")/lib.sh"

CACHE=$T/cache

# status WHAT WANTED COMMAND...: its exit status; output in $T/out, errors in $T/err
status() {
    local what=$1 wanted=$2 found=0
    shift 2
    "$@" >"$T/out" 2>"$T/err" || found=$?
    [ "$found" = "$wanted" ] || fail "$what: exit $found, wanted $wanted: $(cat "$T/out" "$T/err")"
}

does() {
    status "$*" 0 vdisk --cache="$CACHE" "$@"
}

# check WHAT WANTED [ARGS]: the document in $T/out, and no name twice in a line for people
check() {
    local what=$1 wanted=$2
    shift 2
    status "check: $what" "$wanted" vdisk --json --cache="$CACHE" check "$@"
}

# says WHAT FILTER WORDS: an error that FILTER picks has WORDS
says() {
    jq -r ".errors[] | select($2) | .what" "$T/out" | grep -q -- "$3" || fail "$1: $(cat "$T/out" "$T/err")"
}

uuid_of() {
    local value
    value=$(getfattr -n user.vdiskfs --only-values "$1" 2>/dev/null)
    echo "${value#*:}"
}

state_of() {
    vdisk --json --cache="$CACHE" ls "$1" 2>/dev/null | jq -r ".disks[] | select(.name == \"$2\").state"
}

stamp() {
    head -c $((${4:-1} * 4096)) /dev/zero | tr '\0' "$2" |
        dd of="$1" bs=4096 seek="$3" conv=notrunc status=none
}

# with_mount SOURCE COMMAND...
with_mount() {
    local source=$1
    shift
    mount_vd "$source" "$MNT" --cache="$T/mount-cache" --cache-size=64M
    "$@"
    umount_vd "$MNT"
}

# What each disk of a source reads as in a mount
sums() {
    (cd "$MNT" && find . -type f -name '*.raw' | sort | xargs -r sha256sum)
}
keep_sums() {
    sums >"$T/$1"
}
right() {
    with_mount "$2" keep_sums now
    diff "$T/$3" "$T/now" >&2 || fail "$1: some disk reads otherwise"
}

fresh() {
    rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE" "$T/mount-cache"
}

writes() {
    stamp "$MNT/$1" "$2" "$3" "${4:-1}"
}

files_of() {
    (cd "$1/.vdiskfs" && find layers maps -type f | sort)
}

# ---- metadata that was deleted: nothing goes until it is back

# Of the four ways to lose sight of the parent the first two leave layers that only the clone names.
for how in flatten remove keep; do
    fresh
    random_file "$SRC/parent.raw" 4M
    does clone "$SRC/parent.raw" "$SRC/child.raw"
    does clone "$SRC/child.raw" "$SRC/other.raw"
    with_mount "$SRC" writes child.raw c 3 4
    with_mount "$SRC" writes other.raw o 9
    does flatten "$SRC/other.raw"
    case $how in
    flatten) does flatten "$SRC/parent.raw" ;;
    remove) does flatten "$SRC/parent.raw" && rm "$SRC/parent.raw" ;;
    esac
    with_mount "$SRC" keep_sums before
    check "$how: at first" 0 --repair "$SRC"
    uuid=$(uuid_of "$SRC/child.raw")
    files_of "$SRC" >"$T/files"
    cp -a "$SRC/.vdiskfs/disks/$uuid" "$T/saved"
    rm -rf "$SRC/.vdiskfs/disks/$uuid"
    check "$how: metadata is missing" 1 --repair "$SRC"
    says "$how: which file" '.path == "child.raw"' "disks/$uuid from a backup"
    files_of "$SRC" | diff "$T/files" - >&2 || fail "$how: something was swept"
    assert_eq "$how: refused" "$(jq -r '[.refused[].path] | @csv' "$T/out")" '"child.raw"'
    grep -q "not removed, since child.raw is refused" "$T/err" || fail "$how: why is nothing removed? $(cat "$T/err")"
    # a vanished disk is not moved to the trash either, while it may be the one that is needed
    if [ $how = keep ]; then
        mv "$SRC/parent.raw" "$T/parent.raw"
        check "$how: with a vanished disk" 1 --repair "$SRC"
        assert_eq "$how: nothing repaired" "$(jq -c '[.errors[].repaired] | unique' "$T/out")" '[false]'
        mv "$T/parent.raw" "$SRC/parent.raw"
    fi
    # the mount's sweep keeps it too
    with_mount "$SRC" true
    files_of "$SRC" | diff "$T/files" - >&2 || fail "$how: something was swept by the mount"
    mv "$T/saved" "$SRC/.vdiskfs/disks/$uuid"
    right "$how: restored" "$SRC" before
    check "$how: restored" 0 "$SRC"
    ok "metadata deleted, parent: $how"
done

# ---- neither metadata nor file: an error, and --repair gives it up

fresh
random_file "$SRC/parent.raw" 4M
does clone "$SRC/parent.raw" "$SRC/child.raw"
with_mount "$SRC" writes child.raw c 3 4
does snapshot "$SRC/child.raw" s
does flatten "$SRC/parent.raw"
with_mount "$SRC" keep_sums before
uuid=$(uuid_of "$SRC/child.raw")
[ -e "$SRC/.vdiskfs/known/$uuid" ] || fail "the disk is not on the list of those with layers"
rm -rf "$SRC/.vdiskfs/disks/$uuid"
rm "$SRC/child.raw"
files_of "$SRC" >"$T/files"
check "lost" 1 "$SRC"
says "lost" ".path | endswith(\"/disks/$uuid\")" "it is missing, the disk has layers"
assert_eq "said once" "$(jq '.errors | length' "$T/out")" 1
# not while anything else is refused
printf '1:%032d' 5 >"$T/value"
random_file "$SRC/odd.raw" 1M
setfattr -n user.vdiskfs -v "$(cat "$T/value")" "$SRC/odd.raw"
setfattr -n user.vdiskfs.layered -v 1:own "$SRC/odd.raw"
check "lost, and another is refused" 1 --repair "$SRC"
says "held" ".path | endswith(\"/disks/$uuid\")" "not given up in this run, since odd.raw is refused"
files_of "$SRC" | diff "$T/files" - >&2 || fail "swept while a file is refused"
rm "$SRC/odd.raw"
check "lost, given up" 0 --repair "$SRC"
assert_eq "given up" "$(jq -c '[.errors[].repaired]' "$T/out")" '[true]'
assert_eq "swept" "$(files_of "$SRC")" ''
[ ! -e "$SRC/.vdiskfs/known/$uuid" ] || fail "it is still on the list"
check "after that" 0 "$SRC"
assert_eq "nothing left" "$(jq -c . "$T/out")" '{"errors":[]}'
ok "neither metadata nor file"

# ---- metadata from before a snapshot, while others stand on what it would write

fresh
random_file "$SRC/base.raw" 4M
with_mount "$SRC" cat "$MNT/base.raw" >/dev/null
uuid=$(uuid_of "$SRC/base.raw")
cp -a "$SRC/.vdiskfs/disks/$uuid" "$T/plain"
does snapshot "$SRC/base.raw" one
with_mount "$SRC" writes base.raw b 1 8
cp -a "$SRC/.vdiskfs/disks/$uuid" "$T/view"
does snapshot "$SRC/base.raw" two
does clone --snapshot two "$SRC/base.raw" "$SRC/clone.raw"
with_mount "$SRC" writes base.raw B 2 2
with_mount "$SRC" writes clone.raw k 5
with_mount "$SRC" keep_sums before
frozen=$(vdisk --json info "$SRC/clone.raw" | jq -r '.layers[1].path') # live, as the older metadata has it
mv "$SRC/.vdiskfs/disks/$uuid" "$T/newest"
files_of "$SRC" >"$T/files"
for age in plain view; do
    cp -a "$T/$age" "$SRC/.vdiskfs/disks/$uuid"
    check "$age: too old" 1 "$SRC"
    says "$age: why" '.path == "base.raw"' "older than its layers"
    assert_eq "$age: ls" "$(state_of "$SRC" base.raw)" refused
    assert_eq "$age: the clone" "$(state_of "$SRC" clone.raw)" clone
    check "$age: repair" 1 --repair "$SRC"
    files_of "$SRC" | diff "$T/files" - >&2 || fail "$age: something was swept"
    mount_vd "$SRC" "$MNT" --cache="$T/mount-cache" --cache-size=64M
    assert_fails "$age: a write" stamp "$MNT/base.raw" z 0
    grep -q "base.raw: refused: .*older than its layers" "$(vd_log "$MNT")" || fail "$age: the log: $(cat "$(vd_log "$MNT")")"
    assert_eq "$age: the clone's bytes" "$(cd "$MNT" && sha256sum ./clone.raw)" "$(grep clone.raw "$T/before")"
    umount_vd "$MNT"
    # and where such a layer was written all the same, that is said of the layer, too
    cp -a "$SRC/$frozen" "$T/layer.times"
    touch "$SRC/$frozen"
    check "$age: written" 1 "$SRC"
    says "$age: written" ".path == \"$frozen\"" "changed since it was frozen"
    assert_eq "$age: who is refused" "$(jq -c '[.refused[].path]' "$T/out")" '["base.raw","clone.raw"]'
    touch -r "$T/layer.times" "$SRC/$frozen"
    rm -rf "$SRC/.vdiskfs/disks/$uuid" "$T/layer.times"
done
mv "$T/newest" "$SRC/.vdiskfs/disks/$uuid"
right "the newest again" "$SRC" before
check "the newest again" 0 "$SRC"
rm -rf "$T/plain" "$T/view"
ok "metadata that is too old"

# ---- every disk that would be refused is named

# the first layer of base.raw is its file, the second its live layer of before; both are below clone.raw
layer=$(vdisk --json info "$SRC/clone.raw" | jq -r '.layers[-1].path')
cp -a "$SRC/$layer" "$T/layer.times"
touch "$SRC/$layer"
check "a touched layer" 1 "$SRC"
says "which layer" ".path == \"$layer\"" "changed since it was frozen"
assert_eq "who is refused" "$(jq -c '[.refused[].path]' "$T/out")" '["base.raw","clone.raw"]'
touch -r "$T/layer.times" "$SRC/$layer"
check "its time again" 0 "$SRC"
# every map in turn: check and ls name those that a mount refuses
nrefused=0
for map in "$SRC"/.vdiskfs/maps/*; do
    mv "$map" "$T/map"
    found=0
    vdisk --json --cache="$CACHE" check "$SRC" >"$T/out" 2>"$T/err" || found=$?
    refused=$(vdisk --json --cache="$CACHE" ls "$SRC" 2>/dev/null | jq -c '[.disks[] | select(.state == "refused").name]')
    if [ "$refused" != '[]' ]; then
        nrefused=$((nrefused + 1))
        assert_eq "without $(basename "$map")" "$found" 1
        assert_eq "without $(basename "$map"), by name" "$(jq -c '[.refused[].path]' "$T/out")" "$refused"
    fi
    # and ls agrees with what a mount does
    mount_vd "$SRC" "$MNT" --cache="$T/mount-cache" --cache-size=64M
    opened=$(for f in base.raw clone.raw; do cat "$MNT/$f" >/dev/null 2>&1 || echo "$f"; done | jq -Rsc 'split("\n")[:-1]')
    umount_vd "$MNT"
    assert_eq "ls and opens without $(basename "$map")" "$refused" "$opened"
    mv "$T/map" "$map"
done
assert_ge "maps that somebody needs" "$nrefused" 3 # two live ones, and a frozen one
check "all maps again" 0 "$SRC"
vdisk --cache="$CACHE" ls "$SRC" >/dev/null 2>"$T/err"
assert_eq "no warnings" "$(cat "$T/err")" ''
ok "every refused disk is named"

# ---- names are said once; info says where a clone comes from

setfattr -x user.vdiskfs "$SRC/clone.raw"
for command in check ls; do
    vdisk --cache="$CACHE" $command "$SRC" >"$T/out" 2>&1 || true
    grep -q "clone.raw" "$T/out" || fail "$command: $(cat "$T/out")"
    if grep -q "clone.raw: .*clone.raw" "$T/out"; then fail "$command says a name twice: $(cat "$T/out")"; fi
done
uuid=$(basename "$(grep -lr "clone.raw" "$SRC/.vdiskfs/disks" --include=meta.mdb | head -n 1 | xargs dirname)")
setfattr -n user.vdiskfs -v "1:$uuid" "$SRC/clone.raw"
check "its attribute again" 0 "$SRC"
vdisk info "$SRC/clone.raw" | grep -q "^cloned from: base.raw$" || fail "info: $(vdisk info "$SRC/clone.raw")"
assert_eq "info, parent" "$(vdisk --json info "$SRC/clone.raw" | jq -r '"\(.parent) \(.parent_path)"')" \
    "$(uuid_of "$SRC/base.raw") base.raw"
mv "$SRC/base.raw" "$T/base.raw"
vdisk info "$SRC/clone.raw" | grep -q "^cloned from: $(uuid_of "$T/base.raw")$" || fail "info without the parent"
mv "$T/base.raw" "$SRC/base.raw"
ok "names"

# ---- a source that comes back with other inodes

world() {
    fresh
    mkdir "$SRC/sub"
    random_file "$SRC/golden.raw" 4M 1
    random_file "$SRC/plain.raw" 2M 2
    random_file "$SRC/flat.raw" 2M 3
    with_mount "$SRC" cat "$MNT/plain.raw" >/dev/null
    does snapshot "$SRC/golden.raw" first
    does clone "$SRC/golden.raw" "$SRC/a.raw"
    does clone "$SRC/a.raw" "$SRC/sub/b.raw"
    does clone --snapshot first "$SRC/golden.raw" "$SRC/never-opened.raw"
    with_mount "$SRC" writes golden.raw g 7 3
    with_mount "$SRC" writes a.raw a 4 2
    does snapshot "$SRC/a.raw" s
    with_mount "$SRC" writes a.raw A 5 9
    with_mount "$SRC" writes sub/b.raw b 1 1
    does clone "$SRC/flat.raw" "$SRC/of-flat.raw"
    does flatten "$SRC/flat.raw"
    with_mount "$SRC" keep_sums before
    # snapshots count as disks do: one clone of each
    mkdir "$SRC/snap"
    does clone --snapshot first "$SRC/golden.raw" "$SRC/snap/first.raw"
    does clone --snapshot s "$SRC/a.raw" "$SRC/snap/s.raw"
    with_mount "$SRC" keep_sums with_snapshots
    does rm "$SRC/snap/first.raw"
    does rm "$SRC/snap/s.raw"
    rmdir "$SRC/snap"
    check "the world" 0 --repair "$SRC"
}

by_tar() {
    mkdir "$2"
    tar -C "$1" --xattrs --xattrs-include='user.*' --acls --sparse -cf "$T/backup.tar" .
    tar -C "$2" --xattrs --xattrs-include='user.*' --acls -xpf "$T/backup.tar"
    rm "$T/backup.tar"
}
by_cp() {
    cp -a --sparse=always "$1" "$2"
}
by_cp_without_links() {
    cp -r --preserve=mode,ownership,timestamps,xattr --sparse=always "$1" "$2"
}

layered='["a.raw","golden.raw","never-opened.raw","of-flat.raw","sub/b.raw"]'
world
for how in by_tar by_cp by_cp_without_links; do
    back=$T/back
    # the old source's inodes are still in use, so none of them comes back by chance
    $how "$SRC" "$back"
    check "$how: before" 1 "$back"
    assert_eq "$how: who is refused" "$(jq -c '[.refused[].path] | sort' "$T/out")" "$layered"
    says "$how: what to do" '.path == "a.raw"' 'run `vdisk check --repair` on the whole source'
    check "$how: one path is not the whole source" 1 --repair "$back/a.raw"
    assert_eq "$how: not bound" "$(jq -c '[.errors[].repaired]' "$T/out")" '[false]'
    files_of "$back" >"$T/files"
    check "$how: repair" 0 --repair "$back"
    assert_eq "$how: bound" "$(jq -c '[.errors[] | select(.path | startswith("/") | not) | select(.repaired).path] | sort' "$T/out")" \
        "$layered"
    files_of "$back" | diff "$T/files" - >&2 || fail "$how: something was swept"
    check "$how: after" 0 "$back"
    assert_eq "$how: clean" "$(jq -c .errors "$T/out")" '[]'
    right "$how" "$back" before
    assert_eq "$how: state" "$(state_of "$back" a.raw)" clone
    mkdir "$back/snap"
    does clone --snapshot first "$back/golden.raw" "$back/snap/first.raw"
    does clone --snapshot s "$back/a.raw" "$back/snap/s.raw"
    right "$how: snapshots" "$back" with_snapshots
    # and life goes on: the plain disk is a new one, the clones are written, and their parents do not see it
    with_mount "$back" writes a.raw x 0
    with_mount "$back" writes plain.raw y 0
    [ "$(uuid_of "$back/plain.raw")" != "$(uuid_of "$SRC/plain.raw")" ] || fail "$how: the plain disk is no new one"
    does snapshot "$back/sub/b.raw" later
    does revert "$back/golden.raw" first
    check "$how: life goes on" 0 "$back"
    with_mount "$back" keep_sums now
    grep -v 'a.raw\|plain.raw\|golden.raw' "$T/with_snapshots" >"$T/wanted"
    grep -v 'a.raw\|plain.raw\|golden.raw' "$T/now" | diff "$T/wanted" - >&2 || fail "$how: another disk changed"
    rm -rf "$back"
    ok "a source restored: $how"
done

# with the mount running
by_cp "$SRC" "$T/back"
mount_vd "$T/back" "$MNT" --cache="$T/mount-cache" --cache-size=64M
assert_fails "a restored disk before the repair" cat "$MNT/a.raw"
check "repair, by the mount" 0 --repair "$MNT"
keep_sums now
diff "$T/before" "$T/now" >&2 || fail "by the mount: some disk reads otherwise"
umount_vd "$MNT"
rm -rf "$T/back"
ok "a source restored, in a mount"

# two copies of one file, and its own gone: neither
by_cp "$SRC" "$T/back"
cp -a "$T/back/a.raw" "$T/back/sub/a2.raw"
check "two copies" 1 --repair "$T/back"
for path in a.raw sub/a2.raw; do
    says "$path" ".path == \"$path\"" "2 files .*a.raw, sub/a2.raw\|2 files .*sub/a2.raw, a.raw"
    assert_eq "$path" "$(jq -c "[.errors[] | select(.path == \"$path\").repaired]" "$T/out")" '[false]'
done
assert_eq "the others are bound" "$(jq -c '[.errors[] | select(.repaired).path] | sort' "$T/out")" \
    '["golden.raw","never-opened.raw","of-flat.raw","sub/b.raw"]'
rm "$T/back/sub/a2.raw"
check "one copy" 0 --repair "$T/back"
right "one copy" "$T/back" before
# a copy beside the disk's own file stays a copy
cp -a "$T/back/sub/b.raw" "$T/back/copy.raw"
check "a copy beside its original" 1 --repair "$T/back"
says "a copy" '.path == "copy.raw"' "copy of the file"
assert_eq "not bound" "$(jq -c '[.errors[].repaired]' "$T/out")" '[false]'
# a clone's file of another time than its metadata holds other bytes
mv "$T/back/sub/b.raw" "$T/b.raw"
stamp "$T/back/copy.raw" z 1
check "of another backup" 1 --repair "$T/back"
says "of another backup" '.path == "copy.raw"' "one backup"
rm "$T/back/copy.raw"
mv "$T/b.raw" "$T/back/sub/b.raw"
check "as before" 0 "$T/back"
right "as before" "$T/back" before
rm -rf "$T/back"
ok "copies"

# ---- two metadata stores on one source: neither sweeps the other's layers
two_stores() {
    rm -rf "$T/two" "$T/first" "$T/second"
    mkdir -p "$T/two" "${1#--meta=}" "${2#--meta=}"
    random_file "$T/two/one.raw" 1M
    random_file "$T/two/other.raw" 1M
    # a clone whose parent stands alone: no name but the one among the layers
    does "$1" --source="$T/two" clone "$T/two/one.raw" "$T/two/clone.raw"
    does "$1" --source="$T/two" flatten "$T/two/one.raw"
    (cd "$T/two/.vdiskfs/layers" && find . -type f ! -name '.*' | sort) >"$T/layers"
    does "$2" --source="$T/two" snapshot "$T/two/other.raw" s
    does "$2" --source="$T/two" revert "$T/two/other.raw" s
    status "sweep by the second" 1 vdisk --cache="$CACHE" "$2" --source="$T/two" --json check --repair "$T/two"
    (cd "$T/two/.vdiskfs/layers" && find . -type f ! -name '.*' | sort) >"$T/layers-after"
    [ -s "$T/layers" ] || fail "no layer to be swept"
    [ -z "$(comm -23 "$T/layers" "$T/layers-after")" ] || fail "swept: $(comm -23 "$T/layers" "$T/layers-after")"
}
two_stores "--meta=$T/first" "--meta=$T/second"
two_stores "--meta=$T/two/.vdiskfs" "--meta=$T/second"
two_stores "--meta=$T/first" "--meta=$T/two/.vdiskfs"
ok "two stores"
