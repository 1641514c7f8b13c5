#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Disks with layers by the command line: every command with a mount and without, every key, the words, the exit
# codes; what check finds, and what --repair does about it.
. "$(dirname "$0")/lib.sh"

# keys WHAT JSON FILTER KEY...: the object that FILTER picks has each KEY
keys() {
    local what=$1 json=$2 filter=$3 key
    shift 3
    for key in "$@"; do
        jq -e "$filter | has(\"$key\")" >/dev/null <<<"$json" || fail "$what: no \"$key\" in: $json"
    done
}

# status WHAT WANTED COMMAND...: its exit status; output in $T/out, errors in $T/err
status() {
    local what=$1 wanted=$2 found=0
    shift 2
    "$@" >"$T/out" 2>"$T/err" || found=$?
    [ "$found" = "$wanted" ] || fail "$what: exit $found, wanted $wanted: $(cat "$T/out" "$T/err")"
}

# does WHAT COMMAND...: an action that says nothing when all is well, and {} with --json
does() {
    local what=$1
    shift
    status "$what" 0 vdisk --json --cache="$CACHE" "$@"
    assert_eq "$what: document" "$(jq -c . "$T/out")" '{}'
    assert_eq "$what: words" "$(cat "$T/err")" ''
}

# refused WHAT PATH WORDS COMMAND...: exit 1, one document with the error on stdout, a sentence on stderr
refused() {
    local what=$1 path=$2 words=$3
    shift 3
    status "$what" 1 vdisk --json --cache="$CACHE" "$@"
    assert_eq "$what: path of the error" "$(jq -r .error.path "$T/out")" "$path"
    grep -q -- "^vdisk: $path: .*$words" "$T/err" || fail "$what: stderr is: $(cat "$T/err")"
    jq -r .error.what "$T/out" | grep -q -- "$words" || fail "$what: document is: $(cat "$T/out")"
}

# value JQ COMMAND ARGS...: one value of its document
value() {
    local filter=$1
    shift
    vdisk --json --cache="$CACHE" "$@" | jq -r "$filter"
}

# stamp FILE BYTE BLOCK [COUNT]: blocks of one byte
stamp() {
    head -c $((${4:-1} * 4096)) /dev/zero | tr '\0' "$2" |
        dd of="$1" bs=4096 seek="$3" conv=notrunc status=none
}

# byte FILE BLOCK: the first byte of a block
byte() {
    dd if="$1" bs=4096 skip="$2" count=1 status=none | head -c 1
}

# clean WHAT [ARGS]: check finds nothing
clean() {
    local what=$1
    shift
    status "check $what" 0 vdisk --json --cache="$CACHE" check "$@" "$AT"
    assert_eq "check $what" "$(jq -c .errors "$T/out")" '[]'
}

CACHE=$T/cache

# ---- wrong usage

touch "$SRC/x"
for line in "snapshot x" "snapshot x a b" "snapshots" "revert x" "snapshot-rm x" "clone x" "clone x y z" "flatten" \
    "clone x y --snapshot" "resize x" "resize x 1Q" "rm" "adopt x" "adopt --as-plain" "resize x 1M --frob" \
    "check --accept" "tree a b" "snapshot x -y"; do
    # shellcheck disable=SC2086 # words
    (cd "$SRC" && status "usage: $line" 2 vdisk $line)
done
rm "$SRC/x"
ok "usage"

# ---- never mounted: nothing is there

truncate -s 4M "$SRC/bare.raw"
assert_eq "no snapshots" "$(value '.snapshots | length' snapshots "$SRC/bare.raw")" 0
assert_eq "tree of a plain disk" "$(vdisk --json tree "$SRC/bare.raw" | jq -c .)" \
    '{"name":"bare.raw","disk_id":null,"kind":"disk","children":[]}'
[ ! -e "$SRC/.vdiskfs" ] || fail "a command that only looks made metadata"
refused "revert of a plain disk" "$SRC/bare.raw" "no snapshot" revert "$SRC/bare.raw" s1
refused "no disk" "$SRC/none" "No such file" snapshot "$SRC/none" s1
refused "a folder" "$SRC" "regular file" snapshot "$SRC" s1
rm -rf "$SRC/bare.raw" "$SRC/.vdiskfs"
ok "never mounted"

# ---- the same story twice: AT is the mount, or the source without a mount

# bytes FILE: what a client reads there; without a mount one is made for it
bytes() {
    byte "$@"
}

story() {
    local AT=$1 how=$2
    rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
    mkdir "$SRC/sub dir"
    random_file "$SRC/golden.raw" 8M
    stamp "$SRC/golden.raw" g 0 4
    truncate -s 9M "$SRC/golden.raw"
    [ "$how" = offline ] || mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M

    # snapshots
    does "snapshot" snapshot "$AT/golden.raw" first
    refused "the same name" "$AT/golden.raw" 'has a snapshot "first"' snapshot "$AT/golden.raw" first
    refused "no name" "$AT/golden.raw" "name" snapshot "$AT/golden.raw" a/b
    refused "a name that is no text" "$AT/golden.raw" "UTF-8" snapshot "$AT/golden.raw" $'a\xff'
    write "$AT/golden.raw" h 0 2
    does "snapshot, as text" snapshot "$AT/golden.raw" "second one"
    doc=$(vdisk --json snapshots "$AT/golden.raw")
    keys snapshots "$doc" '.snapshots[0]' name disk_id created size
    assert_eq "names, oldest first" "$(jq -c '[.snapshots[].name]' <<<"$doc")" '["first","second one"]'
    assert_eq "size" "$(jq -c '[.snapshots[].size] | unique' <<<"$doc")" '[9437184]'
    jq -e '.snapshots[].created | test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$")' >/dev/null <<<"$doc" ||
        fail "created: $doc"
    vdisk snapshots "$AT/golden.raw" | grep -Eq '^second one +9M +20' || fail "table of snapshots"

    # a disk with layers
    doc=$(vdisk --json info "$AT/golden.raw")
    keys info "$doc" . name size disk_id depth layers owner filters cached_bytes
    keys "info, layers" "$doc" '.layers[0]' index disk_id path state snapshot
    assert_eq "depth" "$(jq '[.depth, (.layers | length)] | @csv' -r <<<"$doc")" "2,3"
    assert_eq "states" "$(jq -c '[.layers[].state]' <<<"$doc")" '["live","frozen","frozen"]'
    assert_eq "names of layers" "$(jq -c '[.layers[].snapshot]' <<<"$doc")" '[null,"second one","first"]'
    assert_eq "IDs of layers" "$(jq '[.layers[].disk_id] | unique | length' <<<"$doc")" 3
    assert_eq "paths of layers" "$(jq -r '.layers[].path' <<<"$doc" | grep -c '^\.vdiskfs/layers/[0-9a-f]*$')" 3
    assert_eq "the live layer's ID" "$(jq -r '.layers[0].disk_id' <<<"$doc")" "$(jq -r .disk_id <<<"$doc")"
    assert_eq "size" "$(jq .size <<<"$doc")" 9437184
    assert_eq "ls" "$(value '.disks[] | select(.name == "golden.raw") | "\(.state) \(.depth) \(.layers) \(.size)"' ls "$AT")" \
        "plain 2 3 9437184"

    # map: block 0 and 1 of the second layer, the rest of the first; then one of the live layer
    write "$AT/golden.raw" i 1
    doc=$(vdisk --json map "$AT/golden.raw")
    keys map "$doc" '.[0]' start length disk_id depth zero cached_bytes
    assert_eq "map" "$(jq -c '[.[] | [.start, .length, .depth, .zero]]' <<<"$doc")" \
        '[[0,4096,1,false],[4096,4096,0,false],[8192,8380416,2,false],[8388608,1048576,2,true]]'
    assert_eq "map, whose" "$(jq -c '[.[].disk_id]' <<<"$doc")" \
        "$(value '[.layers[1,0,2,2].disk_id]' info "$AT/golden.raw" | jq -c .)"
    vdisk map "$AT/golden.raw" | grep -Eq '^ *0 +0x1000 +1 +data .*\.vdiskfs/layers/' || fail "map as text"
    doc=$(vdisk --json explain "$AT/golden.raw" 100K)
    keys explain "$doc" . offset lba block disk_id depth layer layer_offset cached checksum_ok owner epoch filters
    assert_eq "explain" "$(jq -c '[.block, .depth, .layer, .layer_offset]' <<<"$doc")" \
        "[25,2,\"$(value '.layers[2].path' info "$AT/golden.raw")\",102400]"

    # clones
    does "clone" clone "$AT/golden.raw" "$AT/now.raw"
    does "clone of a snapshot" clone --snapshot=first "$AT/golden.raw" "$AT/sub dir/then.raw"
    (cd "$AT/sub dir" && does "clone of a clone" clone then.raw ./grandchild.raw)
    does "clone, option behind" clone "$AT/golden.raw" "$AT/second.raw" --snapshot "second one"
    refused "no such snapshot" "$AT/golden.raw" 'no snapshot "third"' clone "$AT/golden.raw" "$AT/z.raw" --snapshot third
    refused "it exists" "$AT/now.raw" "exists already" clone "$AT/golden.raw" "$AT/now.raw"
    refused "no such folder" "$AT/none/z.raw" "No such file" clone "$AT/golden.raw" "$AT/none/z.raw"
    refused "outside" "$T/z.raw" "source" clone "$AT/golden.raw" "$T/z.raw"
    [ ! -e "$AT/z.raw" ] || fail "a refused clone left a file"
    assert_eq "clone of now" "$(read_bytes "$AT/now.raw" 0 1 2)" hig
    assert_eq "clone of a snapshot" "$(read_bytes "$AT/sub dir/then.raw" 0 1 2)" ggg
    assert_eq "clone of a clone" "$(read_bytes "$AT/sub dir/grandchild.raw" 0 1 2)" ggg
    assert_eq "clone of the second" "$(read_bytes "$AT/second.raw" 0 1 2)" hhg
    write "$AT/now.raw" n 2
    assert_eq "its own" "$(read_bytes "$AT/now.raw" 0 1 2)" hin
    assert_eq "and not its parent's" "$(read_bytes "$AT/golden.raw" 0 1 2)" hig
    assert_eq "state of a clone" "$(value .state info "$AT/now.raw")" clone
    assert_eq "what it was cloned from" "$(value .parent info "$AT/now.raw")" "$(value .uuid info "$AT/golden.raw")"
    assert_eq "a clone's own layer is its file" "$(value '.layers[0].path' info "$AT/now.raw")" now.raw

    # tree
    doc=$(vdisk --json tree "$AT")
    keys tree "$doc" '.disks[0]' name disk_id kind children
    assert_eq "tree" "$(jq -c '[.disks[] | [.name, .kind, [.children[] | [.name, .kind, [.children[] | [.name, [.children[].name]]]]]]]' <<<"$doc")" \
        "$(jq -c . <<<'[["golden.raw","disk",[["first","snapshot",[["sub dir/then.raw",["sub dir/grandchild.raw"]]]],["second one","snapshot",[["second.raw",[]]]],["now.raw","disk",[]]]]]')"
    assert_eq "tree of a disk" "$(value '[.name, .children[].name] | @csv' tree "$AT/sub dir/then.raw")" \
        '"sub dir/then.raw","sub dir/grandchild.raw"'
    assert_eq "tree of a folder" "$(value '[.disks[].name] | @csv' tree "$AT/sub dir")" '"sub dir/then.raw"'
    vdisk tree "$AT" | grep -Eq '^[^ ]+ .*then\.raw +disk +9M ' || fail "tree as text: $(vdisk tree "$AT")"
    clean "with clones"

    # what others depend on
    refused "rm of a parent" "$AT/golden.raw" "now.raw" rm "$AT/golden.raw"
    grep -q "then.raw" "$T/err" || fail "not all who depend on it are named: $(cat "$T/err")"
    [ -e "$AT/golden.raw" ] || fail "a refused rm removed it"
    mv "$AT/now.raw" "$AT/sub dir/moved.raw"
    uuid=$(value .uuid info "$AT/sub dir/moved.raw")
    refused "rm, a child was renamed" "$AT/golden.raw" "disk $uuid (last seen at now.raw)" rm "$AT/golden.raw"
    mv "$AT/sub dir/moved.raw" "$AT/now.raw"
    layer=$(find "$SRC/.vdiskfs/layers" -type f -size +1M -print -quit)
    refused "rm of a layer" "$layer" private rm "$layer"
    refused "adopt of a layer" "$layer" private adopt --as-plain "$layer"
    [ -s "$layer" ] || fail "a refused rm removed a layer"
    refused "flatten with snapshots" "$AT/golden.raw" "snapshot" flatten "$AT/golden.raw"

    # revert
    exec {fd}<"$AT/golden.raw"
    [ "$how" = offline ] || refused "revert of an open disk" "$AT/golden.raw" "open" revert "$AT/golden.raw" first
    exec {fd}<&-
    settled "$AT/golden.raw"
    does "revert" revert "$AT/golden.raw" first
    assert_eq "reverted" "$(read_bytes "$AT/golden.raw" 0 1 2)" ggg
    assert_eq "snapshots stay" "$(value '[.snapshots[].name] | @csv' snapshots "$AT/golden.raw")" '"first","second one"'
    refused "revert to nothing" "$AT/golden.raw" 'no snapshot "third"' revert "$AT/golden.raw" third
    does "revert again" revert "$AT/golden.raw" "second one"
    assert_eq "reverted to the second" "$(read_bytes "$AT/golden.raw" 0 1 2)" hhg
    does "snapshot-rm" snapshot-rm "$AT/golden.raw" "second one"
    refused "snapshot-rm of nothing" "$AT/golden.raw" 'no snapshot' snapshot-rm "$AT/golden.raw" "second one"
    assert_eq "a clone of it stays" "$(read_bytes "$AT/second.raw" 0 1 2)" hhg

    # resize
    does "resize" resize "$AT/now.raw" 12M
    assert_eq "grown" "$(value .size info "$AT/now.raw")" 12582912
    assert_eq "ls" "$(value '.disks[] | select(.name == "now.raw").size' ls "$AT")" 12582912
    refused "shrink" "$AT/now.raw" "--shrink" resize "$AT/now.raw" 2M
    does "shrink" resize "$AT/now.raw" 2M --shrink
    assert_eq "shrunk" "$(value .size info "$AT/now.raw")" 2097152
    does "grow again" resize "$AT/now.raw" 4M
    assert_eq "zeroes" "$(value '.[-1] | "\(.start) \(.zero)"' map "$AT/now.raw")" "2097152 true"

    # flatten
    stamped=$(sum_of "$AT/sub dir/then.raw")
    does "flatten" flatten "$AT/sub dir/then.raw"
    assert_eq "the same bytes" "$(sum_of "$AT/sub dir/then.raw")" "$stamped"
    settled "$AT/sub dir/then.raw"
    assert_eq "plain" "$(value '"\(.state) \(.depth) \(.parent)"' info "$AT/sub dir/then.raw")" "plain 0 null"
    assert_eq "its child stays" "$(read_bytes "$AT/sub dir/grandchild.raw" 0 1 2)" ggg

    # rm
    does "rm" rm "$AT/now.raw"
    [ ! -e "$AT/now.raw" ] || fail "rm left the file"
    does "rm" rm "$AT/second.raw"
    does "rm" rm "$AT/sub dir/grandchild.raw"
    does "rm of one with snapshots" rm "$AT/golden.raw"
    does "rm" rm "$AT/sub dir/then.raw"
    assert_eq "nothing left" "$(value '.disks | length' ls "$AT")" 0
    clean "after rm"
    status "repair" 0 vdisk --json --cache="$CACHE" check --repair "$AT"
    assert_eq "layers left" "$(ls "$SRC/.vdiskfs/layers" 2>/dev/null | wc -l)" 0
    assert_eq "maps left" "$(ls "$SRC/.vdiskfs/maps" 2>/dev/null | wc -l)" 0
    status "check" 0 vdisk --json --cache="$CACHE" check "$AT"
    assert_eq "no left-overs" "$(jq -c . "$T/out")" '{"errors":[]}'
    [ "$how" = offline ] || umount_vd "$MNT"
    ok "$how"
}

# What a client does, which needs a mount where the story has none.
with_mount() {
    [ "$how" = offline ] || { "$@"; return; }
    mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
    "$@"
    umount_vd "$MNT" >&2
}
in_mount() {
    echo "$MNT/${1#"$AT"/}"
}
write() {
    local file
    file=$(in_mount "$1")
    shift
    with_mount stamp "$file" "$@"
    settled "$file"
}
all_bytes() {
    local file=$1 block
    shift
    for block in "$@"; do byte "$file" "$block"; done
}
read_bytes() {
    local file
    file=$(in_mount "$1")
    shift
    with_mount all_bytes "$file" "$@"
}
sum_of() {
    with_mount sha256sum "$(in_mount "$1")" | cut -d' ' -f1
}
# A close is noticed by the daemon a moment later.
settled() {
    [ "$how" = offline ] || wait_for "! vdisk --json info '$1' | jq -e .attached >/dev/null" 20
}

story "$MNT" online
story "$SRC" offline

# ---- what is cached counts, whichever layer holds it

how=online AT=$MNT
rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
random_file "$SRC/golden.raw" 4M
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
does "snapshot" snapshot "$MNT/golden.raw" s
does "clone" clone "$MNT/golden.raw" "$MNT/a.raw"
does "clone" clone "$MNT/golden.raw" "$MNT/b.raw"
dd if="$MNT/a.raw" of=/dev/null bs=1M count=2 status=none
exec {fd}<"$MNT/b.raw"
assert_eq "what one clone has read the other has" "$(value .cached_bytes info "$MNT/b.raw")" 2097152
assert_eq "explain, attached" "$(value '"\(.cached) \(.checksum_ok) \(.depth)"' explain "$MNT/b.raw" 1M)" "true true 1"
assert_eq "map, attached" "$(value '[.[].cached_bytes] | add' map "$MNT/b.raw")" 2097152
exec {fd}<&-
settled "$MNT/b.raw"
stamp "$MNT/b.raw" x 0
cached_map() {
    value '[.[] | [.length, .depth, .cached_bytes]] | tostring' map "$1"
}
own='[[4096,0,4096],[4190208,1,2093056]]' # its own block, and what is cached of the layer below but for that one
wait_for '[ "$(cached_map "$MNT/b.raw")" = "$own" ]' 20 # the cache counts once the detach is done
assert_eq "info adds up" "$(value .cached_bytes info "$MNT/b.raw")" 2097152
umount_vd "$MNT"
assert_eq "cached, offline" "$(cached_map "$SRC/b.raw")" "$own"
assert_eq "info, offline" "$(value .cached_bytes info "$SRC/b.raw")" 2097152
assert_eq "ls, offline" "$(value '[.disks[].cached_bytes] | @csv' ls "$SRC")" 2097152,2097152,2097152
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
does "cache drop" cache drop "$MNT/b.raw"
umount_vd "$MNT"
assert_eq "a dropped live layer" "$(cached_map "$SRC/b.raw")" '[[4096,0,0],[4190208,1,2093056]]'
assert_eq "which nobody shares" "$(value '[.disks[].cached_bytes] | @csv' ls "$SRC")" 2097152,2093056,2097152
ok "cached"

# ---- check: a frozen layer that changed

how=offline AT=$SRC
layer=$SRC/$(value '.layers[1].path' info "$SRC/a.raw")
rel=${layer#"$SRC/"}
stat --format=%y "$layer" >/dev/null || fail "no file of the frozen layer: $layer"
clean "before"
touch "$layer"
status "check of a touched layer" 1 vdisk --json --cache="$CACHE" check "$SRC"
keys check "$(cat "$T/out")" '.errors[0]' path what repaired
assert_eq "one error, for three disks" "$(jq -c '[.errors[] | [.path, .repaired]]' "$T/out")" "[[\"$rel\",false]]"
assert_eq "state" "$(value '[.disks[].state] | unique | @csv' ls "$SRC" 2>/dev/null)" '"refused"'
refused "snapshot of a refused disk" "$SRC/a.raw" "check" snapshot "$SRC/a.raw" s2
status "repair" 0 vdisk --json --cache="$CACHE" check --repair "$SRC"
assert_eq "repaired" "$(jq -c '[.errors[] | [.path, .repaired]]' "$T/out")" "[[\"$rel\",true]]"
jq -r '.errors[0].what' "$T/out" | grep -q "all 512 blocks that the cache holds" || fail "on what ground? $(cat "$T/out")"
clean "after the repair"
assert_eq "its bytes" "$(byte "$SRC/b.raw" 0)" x
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
cmp "$MNT/a.raw" "$MNT/golden.raw" || fail "a clone changed"
umount_vd "$MNT"
ok "a touched layer"

# online too, where the mount refuses it
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
cat "$MNT/a.raw" >/dev/null
umount_vd "$MNT"
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
touch "$layer"
assert_fails "read of a touched layer" cat "$MNT/a.raw"
status "repair, online" 0 vdisk --json check --repair "$MNT"
assert_eq "repaired, online" "$(jq -c '[.errors[] | [.path, .repaired]]' "$T/out")" "[[\"$rel\",true]]"
cat "$MNT/a.raw" >/dev/null || fail "it is still refused"
umount_vd "$MNT"
ok "a touched layer, online"

# one block differs from what the cache holds: never
before=$(sha256sum <"$layer")
stamp "$layer" z 7
status "a changed layer" 1 vdisk --json --cache="$CACHE" check --repair --accept "$SRC"
jq -r '.errors[0].what' "$T/out" | grep -q "block 7 is not what the cache holds" || fail "which? $(cat "$T/out")"
assert_eq "not repaired" "$(jq -c '[.errors[].repaired]' "$T/out")" '[false]'
random_file "$T/golden" 4M
dd if="$T/golden" of="$layer" bs=4096 skip=7 seek=7 count=1 conv=notrunc status=none
assert_eq "restored" "$(sha256sum <"$layer")" "$before"
# nothing to compare with: only on somebody's word
status "no cache" 1 vdisk --json --cache="$T/none" check --repair "$SRC"
jq -r '.errors[0].what' "$T/out" | grep -q -- "--accept" || fail "what to do? $(cat "$T/out")"
status "accept" 0 vdisk --json --cache="$T/none" check --repair --accept "$SRC"
clean "after --accept"
truncate -s 3M "$layer"
status "another size" 1 vdisk --json --cache="$CACHE" check --repair --accept "$SRC"
assert_eq "another size" "$(jq -c '[.errors[].repaired]' "$T/out")" '[false]'
truncate -s 4M "$layer"
dd if="$T/golden" of="$layer" bs=1M skip=3 seek=3 count=1 conv=notrunc status=none
status "restored" 0 vdisk --json --cache="$T/none" check --repair --accept "$SRC"
mv "$layer" "$T/layer"
status "a missing layer" 1 vdisk --json --cache="$CACHE" check --repair --accept "$SRC"
assert_eq "a missing layer" "$(jq -r '.errors[0].path' "$T/out")" "$rel"
mv "$T/layer" "$layer"
clean "restored"
ok "a changed layer"

# ---- maps

map=$(find "$SRC/.vdiskfs/maps" -name '*.map' | head -n 1)
[ -n "$map" ] || map=$(find "$SRC/.vdiskfs/maps" -type f | head -n 1)
cp -p "$map" "$T/map"
printf damage | dd of="$map" bs=1 seek=40 conv=notrunc status=none
status "a damaged map" 1 vdisk --json --cache="$CACHE" check "$SRC"
jq -r '.errors[].what' "$T/out" | grep -q "$(basename "$map" | head -c 32)" || fail "which map? $(cat "$T/out")"
cp -p "$T/map" "$map"
clean "with its maps restored"
ok "a damaged map"

# ---- files that were deleted outside, left-overs

rm "$SRC/golden.raw" # others depend on it
status "a deleted parent" 1 vdisk --json --cache="$CACHE" check --repair "$SRC"
assert_eq "not removed" "$(jq -c '[.errors[].repaired]' "$T/out")" '[false]'
jq -r '.errors[0].what' "$T/out" | grep -q "a.raw depends on it\|b.raw depends on it" || fail "who? $(cat "$T/out")"
rm "$SRC/a.raw" # nobody does
status "a deleted clone" 1 vdisk --json --cache="$CACHE" check "$SRC"
assert_eq "two" "$(jq '.errors | length' "$T/out")" 2
status "a deleted clone, repaired" 1 vdisk --json --cache="$CACHE" check --repair "$SRC"
assert_eq "one of two" "$(jq -c '[.errors[].repaired] | sort' "$T/out")" '[false,true]'
does "rm of the last one" rm "$SRC/b.raw"
status "the parent goes too" 0 vdisk --json --cache="$CACHE" check --repair "$SRC"
status "nothing is left" 0 vdisk --json --cache="$CACHE" check "$SRC"
assert_eq "nothing is left" "$(jq -c . "$T/out")" '{"errors":[]}'
assert_eq "no layers" "$(ls "$SRC/.vdiskfs/layers" | wc -l)" 0
id=$(printf '%032d' 7)
truncate -s 1M "$SRC/.vdiskfs/layers/$id"
status "a left-over" 0 vdisk --json --cache="$CACHE" check "$SRC"
assert_eq "a left-over is told" "$(jq -r '.leftovers[]' "$T/out" | grep -c "$id")" 1
vdisk --cache="$CACHE" check "$SRC" | grep -q "$id: nothing refers to it (no error" || fail "left-over, as text"
status "a left-over, removed" 0 vdisk --json --cache="$CACHE" check --repair "$SRC"
[ ! -e "$SRC/.vdiskfs/layers/$id" ] || fail "a left-over was not removed"
ok "deleted outside"

# ---- adopt

random_file "$SRC/d.raw" 2M
does "snapshot" snapshot "$SRC/d.raw" s
random_file "$T/foreign" 2M 9
cp "$T/foreign" "$SRC/d.raw.new"
refused "without metadata" "$SRC/gone.raw" "No such file" adopt "$SRC/gone.raw" --as-plain
cp -a "$SRC/d.raw" "$SRC/copy.raw" 2>/dev/null
setfattr -h -x user.vdiskfs.none "$SRC/copy.raw" 2>/dev/null || true
assert_eq "a copy of a disk with layers" "$(value '.disks[] | select(.name == "copy.raw").state' ls "$SRC" 2>/dev/null)" refused
refused "clone of a copy" "$SRC/copy.raw" "copy\|check" clone "$SRC/copy.raw" "$SRC/e.raw"
does "adopt" adopt "$SRC/copy.raw" --as-plain
assert_eq "adopted" "$(value .state info "$SRC/copy.raw")" plain
cmp "$SRC/copy.raw" "$SRC/d.raw" || fail "adopt changed the bytes"
clean "after adopt"
ok "adopt"

# ---- metadata elsewhere; the source is then not seen, but the record tells it

rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
mkdir "$SRC/sub"
random_file "$SRC/sub/m.raw" 2M
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M --meta="$T/meta"
cat "$MNT/sub/m.raw" >/dev/null
status "another place" 1 vdisk --meta="$T/elsewhere" snapshot "$MNT/sub/m.raw" s
umount_vd "$MNT"
rm -rf "$SRC/.vdiskfs"
does "snapshot, --meta" --meta="$T/meta" snapshot "$SRC/sub/m.raw" s
[ ! -e "$SRC/sub/.vdiskfs" ] || fail "the layers are in a folder of the source"
[ -d "$SRC/.vdiskfs/layers" ] || fail "the layers are not in the source"
does "clone, --source" --meta="$T/meta" --source="$SRC" clone "$SRC/sub/m.raw" "$SRC/c.raw"
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M --meta="$T/meta"
cmp "$MNT/c.raw" "$MNT/sub/m.raw" || fail "the clone made offline differs"
umount_vd "$MNT"
status "check, --meta" 0 vdisk --json --meta="$T/meta" check "$SRC"
ok "--meta"

# ---- who has the disk: a mount that is not found, two mounts, names that the socket cannot carry

how=online AT=$MNT
rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
random_file "$SRC/w.raw" 2M
random_file "$SRC/"$'odd\xff.raw' 2M
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
mount_vd "$SRC" "$T/mnt2" --cache="$T/cache2" --cache-size=64M
pid=$(vd_pid "$MNT")
exec {fd}<>"$MNT/w.raw"
printf x >&$fd
mkdir "$T/no-run"
for line in "snapshot w.raw s" "resize w.raw 3M" "flatten w.raw" "revert w.raw s" "clone w.raw c.raw" "rm w.raw"; do
    # shellcheck disable=SC2086 # words
    (cd "$SRC" && VDISKFS_RUNDIR=$T/no-run status "another's: $line" 1 vdisk --source="$SRC" $line)
    case $line in revert*) continue ;; esac # it has no snapshot either
    grep -Eq "pid $pid|has it open|snapshot|no layers" "$T/err" || fail "another's: $line: $(cat "$T/err")"
done
(cd "$SRC" && VDISKFS_RUNDIR=$T/no-run status "another's" 1 vdisk snapshot w.raw s)
grep -q "pid $pid" "$T/err" || fail "who has it? $(cat "$T/err")"
assert_eq "nothing was done" "$(value '.snapshots | length' snapshots "$MNT/w.raw")" 0
status "a name that is no text" 1 vdisk --json snapshot "$MNT/"$'odd\xff.raw' s
grep -aq "UTF-8" "$T/err" || fail "a name that is no text: $(cat "$T/err")"
# two mounts: the one that has the disk does it, also by a path in the source
does "by the source, with two mounts" snapshot "$SRC/w.raw" s
does "by the other mount" snapshot "$MNT/w.raw" s2
refused "by the mount that has it not" "$T/mnt2/w.raw" "pid $pid" snapshot "$T/mnt2/w.raw" s3
printf y >&$fd || fail "its client cannot write any more"
exec {fd}>&-
settled "$MNT/w.raw"
does "by the other one" snapshot "$T/mnt2/w.raw" s3
assert_eq "all three" "$(value '[.snapshots[].name] | @csv' snapshots "$T/mnt2/w.raw")" '"s","s2","s3"'
clean "with two mounts"
umount_vd "$T/mnt2"
umount_vd "$MNT"
how=offline AT=$SRC
does "offline any name will do" snapshot "$SRC/"$'odd\xff.raw' s
ok "who has the disk"

# ---- check says nothing of a disk that is in use, whatever happens to its maps

how=online AT=$MNT
rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
truncate -s 8M "$SRC/p.raw" # hammer begins with zeroes
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
does "clone" clone "$MNT/p.raw" "$MNT/busy.raw"
"$VD_BUILD/bench/hammer" write "$MNT/busy.raw" "$T/hammer.bin" --seconds=300 >/dev/null 2>&1 &
hammer=$!
later $hammer
for i in 1 2 3 4 5 6; do
    does "snapshot under load" snapshot "$MNT/busy.raw" "s$i"
    clean "under load"
    vdisk --json map "$MNT/busy.raw" | jq -e '[.[].length] | add == 8388608' >/dev/null || fail "map under load"
    assert_eq "layers under load" "$(value '[.layers[].snapshot] | map(select(.)) | length' info "$MNT/busy.raw")" "$i"
done
assert_eq "in use" "$(value '"\(.attached) \(.state)"' info "$MNT/busy.raw")" "true clone"
for i in 1 3 5; do does "snapshot-rm under load" snapshot-rm "$MNT/busy.raw" "s$i"; done
clean "under load"
kill "$hammer"
wait "$hammer" 2>/dev/null || true
settled "$MNT/busy.raw"
"$VD_BUILD/bench/hammer" verify "$MNT/busy.raw" "$T/hammer.bin" >/dev/null || fail "hammer found a wrong block"
clean "after the load"
umount_vd "$MNT"
ok "in use"

# ---- flatten of what is nearly all hole

how=offline AT=$SRC
rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
truncate -s 8T "$SRC/vast.raw"
stamp "$SRC/vast.raw" a 0
stamp "$SRC/vast.raw" b $((1 << 30))
printf c | dd of="$SRC/vast.raw" bs=1 seek=$(((1 << 42) + 12288 + 100)) conv=notrunc status=none
does "clone" clone "$SRC/vast.raw" "$SRC/flat.raw"
timeout 100 "$VD_BUILD/vdisk" flatten "$SRC/flat.raw" || fail "flatten of holes: exit $?"
assert_eq "flat" "$(value .depth info "$SRC/flat.raw")" 0
assert_eq "size" "$(stat -c %s "$SRC/flat.raw")" $((8 << 40))
assert_lt "allocated" "$(($(stat -c %b "$SRC/flat.raw") * 512))" 1000000
for at in 0 $((1 << 42)) $((8 << 40)); do # with what is around
    cmp -n 131072 -i $((at > 65536 ? at - 65536 : 0)) "$SRC/flat.raw" "$SRC/vast.raw" || fail "the bytes at $at differ"
done
assert_eq "first" "$(byte "$SRC/flat.raw" 0)$(byte "$SRC/flat.raw" $((1 << 30)))" ab
ok "flatten of holes"

# ---- flatten that is interrupted, and shows how far it is

how=offline AT=$SRC
rm -rf "${SRC:?}"/* "$SRC/.vdiskfs" "$CACHE"
random_file "$SRC/big.raw" 64M
does "snapshot" snapshot "$SRC/big.raw" s
does "clone" clone "$SRC/big.raw" "$SRC/flat.raw"
script -qec "$VD_BUILD/vdisk flatten '$SRC/flat.raw'" "$T/typescript" >/dev/null </dev/null || fail "flatten on a terminal: $(cat "$T/typescript")"
grep -q 'flatten: .* %, .* of ' "$T/typescript" || fail "no progress on a terminal: $(cat -v "$T/typescript")"
assert_eq "flattened" "$(value .state info "$SRC/flat.raw")" plain
cmp "$SRC/flat.raw" "$SRC/big.raw" || fail "flatten changed the bytes"

# interrupted NAME: a flatten that is told to stop says so, keeps what it has, and the next one goes on. Who copies
# (the command, or the mount) is slowed down.
slow=("${with_fault[@]}" VD_FAULT="pwrite,pwritev:line.raw:1+:delay=100")
blocks() {
    stat -c %b "$SRC/$1.raw"
}
interrupted() {
    local found=0 copied
    does "clone" clone "$AT/big.raw" "$AT/$1.raw"
    env "${slow[@]}" "$VD_BUILD/vdisk" flatten "$AT/$1.raw" 2>"$T/err" &
    local pid=$!
    later "$pid"
    wait_for "[ \$(blocks $1) -ge 2048 ]" 60
    [ "$how" = online ] ||
        refused "while a command is at work" "$AT/$1.raw" "pid $pid; try again when that has ended" snapshot "$AT/$1.raw" s
    kill -TERM "$pid"
    wait "$pid" || found=$?
    assert_eq "interrupted flatten: $(cat "$T/err")" "$found" 1
    grep -q "^vdisk: $AT/$1.raw: interrupted; vdisk flatten goes on" "$T/err" || fail "interrupted: $(cat "$T/err")"
    assert_eq "not flattened" "$(value .state info "$AT/$1.raw")" clone
    copied=$(blocks "$1")
    assert_lt "stopped early" "$copied" $((64 * 2048))
    assert_eq "what was copied" "$(value '[.[] | select(.depth == 0) | .length] | add >= 1048576' map "$AT/$1.raw")" true
    does "flatten again" flatten "$AT/$1.raw"
    assert_eq "flattened, $1" "$(value .state info "$AT/$1.raw")" plain
}
interrupted offline
cmp "$SRC/offline.raw" "$SRC/big.raw" || fail "an interrupted flatten changed the bytes"
how=online AT=$MNT
vd_env=("${slow[@]}")
mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
interrupted online
vd_env=()
cmp "$MNT/online.raw" "$MNT/big.raw" || fail "an interrupted flatten changed the bytes, online"
clean "after all"
umount_vd "$MNT"
ok "flatten"
