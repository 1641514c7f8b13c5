#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the commands print, with a mount and without: every key of the contract, the exit codes, the words.
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

# refused WHAT PATH WORDS COMMAND...: exit 1, one document with the error on stdout, a sentence on stderr
refused() {
    local what=$1 path=$2 words=$3
    shift 3
    status "$what" 1 vdisk --json "$@"
    assert_eq "$what: path of the error" "$(jq -r .error.path "$T/out")" "$path"
    grep -q "$words" "$T/err" || fail "$what: stderr is: $(cat "$T/err")"
    jq -r .error.what "$T/out" | grep -q "$words" || fail "$what: document is: $(cat "$T/out")"
}

# value PATH JQ COMMAND: one value of its document
value() {
    vdisk --json --cache="$CACHE" "$3" "$1" | jq -r "$2"
}

CACHE=$T/cache-mnt
mkdir "$SRC/sub dir"
random_file "$SRC/a.raw" 8M
random_file "$SRC/sub dir/b.raw" 4M
truncate -s 16M "$SRC/holes.raw"
dd if="$SRC/a.raw" of="$SRC/holes.raw" bs=1M seek=4 count=2 conv=notrunc status=none
random_file "$SRC/small" 64K
truncate -s 1M "$SRC/"$'odd\xffname.raw'

# ---- never mounted

doc=$(vdisk --json ls "$SRC")
assert_eq "disks before the first mount" "$(jq '.disks | length' <<<"$doc")" 4
keys ls "$doc" '.disks[0]' name size disk_id depth layers state owner cached_bytes
assert_eq "IDs before the first open" "$(jq -c '[.disks[].disk_id] | unique' <<<"$doc")" '[null]'
assert_eq "state" "$(jq -r '[.disks[].state] | unique[]' <<<"$doc")" plain
jq -e '.disks[] | select(.name == "odd\ufffdname.raw")' >/dev/null <<<"$doc" || fail "odd name: $doc"
refused "dump before the first open" "$SRC/a.raw" "no metadata yet" dump "$SRC/a.raw"
refused "stats offline" "$SRC/a.raw" "only its daemon" cache stats "$SRC/a.raw"
refused "stats of nothing" null "no mount is running" cache stats
refused "no such file" "$SRC/none" "No such file" info "$SRC/none"
refused "a small file" "$SRC/small" "no disk" info "$SRC/small"
refused "a folder" "$SRC/sub dir" "regular file" info "$SRC/sub dir"
for command in "rm" "adopt --as-plain" "snapshot PATH s" "snapshot-rm PATH s" "revert PATH s" "resize PATH 2M" "flatten" \
    "clone PATH $SRC/child" "filter attach PATH stats"; do
    [[ $command == *PATH* ]] || command+=" PATH"
    read -ra words <<<"${command/PATH/$SRC/small}"
    refused "$command of what is no disk" "$SRC/small" "it is not a disk" "${words[@]}"
    assert_eq "what is no disk, after $command" "$(stat -c %s "$SRC/small")" 65536
done
[ ! -e "$SRC/.vdiskfs" ] || fail "a command made metadata"
ok "never mounted"

# ---- wrong usage

status "no command" 2 vdisk
status "unknown command" 2 vdisk frobnicate
status "unknown option" 2 vdisk --frobnicate ls
status "unknown option of a command" 2 vdisk ls --frobnicate
status "no argument" 2 vdisk info
status "too many arguments" 2 vdisk info a b
status "no number" 2 vdisk explain "$SRC/a.raw" 12x
status "help" 0 vdisk --help
status "version" 0 vdisk --version
# wrong_usage WORDS ARGS...: said on stderr, and with --json in a document too
wrong_usage() {
    local words=$1
    shift
    status "$*" 2 vdisk "$@" --json
    assert_eq "$*: path" "$(jq -c .error.path "$T/out")" null
    jq -r .error.what "$T/out" | grep -q -- "$words" || fail "$*: document is: $(cat "$T/out")"
    grep -q -- "^vdisk: ${words#^}" "$T/err" || fail "$*: stderr is: $(cat "$T/err")"
}
wrong_usage "^no command"
wrong_usage "^frobnicate: no such command" frobnicate
wrong_usage "^cache foo: no such command" cache foo
wrong_usage "^cache: a second word is missing" cache
wrong_usage "^--frobnicate: no such option" --frobnicate ls
wrong_usage "^usage: .* info PATH" info
wrong_usage "^usage: .* ls \[PATH\]" ls --frobnicate
wrong_usage "^--meta=: needs a directory" ls --meta=
mkdir "$T/dash"
truncate -s 1M "$T/dash/--json" "$T/dash/größe.raw"
assert_eq "behind --" "$(cd "$T/dash" && vdisk --json info -- --json | jq -r .name)" --json
status "two behind --" 2 vdisk info -- a b
LC_ALL=C.UTF-8 "$VD_BUILD/vdisk" ls "$T/dash" >"$T/out"
grep -q '^größe.raw ' "$T/out" || fail "a name in UTF-8: $(cat "$T/out")"
refused "later" release "not available in this version" release "$SRC/a.raw"
refused "later, two words" "cache warm" "not available in this version" cache warm "$SRC/a.raw"
ok "usage"

# ---- mounted

mount_vd "$SRC" "$MNT" --cache="$CACHE" --cache-size=64M
pid=$(vd_pid "$MNT")
exec {fd}<"$MNT/a.raw"
cat "$MNT/a.raw" >/dev/null
cat "$MNT/sub dir/b.raw" >/dev/null

doc=$(vdisk --json ls)
keys "ls, no PATH" "$doc" '.disks[0]' name size disk_id depth layers state owner cached_bytes
assert_eq "ls by the mount" "$(vdisk --json ls "$MNT")" "$doc"
assert_eq "ls by the source" "$(vdisk --json ls "$SRC")" "$doc"
assert_eq "cached" "$(jq '.disks[] | select(.name == "a.raw").cached_bytes' <<<"$doc")" 8388608
jq -e '.disks[] | select(.name == "a.raw").disk_id | test("^[0-9a-f]{32}$")' >/dev/null <<<"$doc" ||
    fail "disk ID: $doc"
assert_eq "ls of a folder" "$(cd "$MNT" && vdisk --json ls "sub dir" | jq -r '.disks[].name')" "sub dir/b.raw"
vdisk ls | head -n 1 | grep -Eq '^NAME +SIZE ' || fail "heading of ls"
vdisk --bytes ls | grep -Eq '^a\.raw +8388608 ' || fail "exact sizes"
vdisk ls | grep -Eq '^a\.raw +8M ' || fail "sizes for people"

doc=$(vdisk --json info "$MNT/a.raw")
keys info "$doc" . name size disk_id depth layers owner filters cached_bytes
keys "info, layers" "$doc" '.layers[0]' index disk_id path state snapshot
keys "info, owner" "$doc" .owner id host pid epoch state
assert_eq "size" "$(jq .size <<<"$doc")" 8388608
assert_eq "live layer" "$(jq -r '.layers[0].state' <<<"$doc")" live
assert_eq "layer's path" "$(jq -r '.layers[0].path' <<<"$doc")" a.raw
assert_eq "info by the source" "$(vdisk --json info "$SRC/a.raw")" "$doc"
ln -s "$MNT/a.raw" "$T/link"
assert_eq "info by a link" "$(vdisk --json info "$T/link")" "$doc"
assert_eq "info, relative" "$(cd "$SRC/sub dir" && vdisk --json info ../a.raw)" "$doc"

doc=$(vdisk --json map "$MNT/holes.raw")
keys map "$doc" '.[0]' start length disk_id depth zero cached_bytes
assert_eq "map" "$(jq -c '[.[] | [.start, .length, .zero]]' <<<"$doc")" \
    '[[0,4194304,true],[4194304,2097152,false],[6291456,10485760,true]]'
assert_eq "map adds up" "$(vdisk --json map "$MNT/a.raw" | jq 'map(.cached_bytes) | add')" 8388608

doc=$(vdisk --json explain "$MNT/a.raw" 1M)
keys explain "$doc" . offset lba block disk_id depth layer layer_offset cached checksum_ok owner epoch filters
assert_eq "explain" "$(jq -c '[.offset, .lba, .block, .depth, .layer_offset, .cached, .checksum_ok]' <<<"$doc")" \
    '[1048576,2048,256,0,1048576,true,true]'
refused "past the end" "$MNT/a.raw" "past its end" explain "$MNT/a.raw" 1T
for command in rm "adopt --as-plain"; do
    # shellcheck disable=SC2086
    refused "$command of what is no disk" "$MNT/small" "it is not a disk" $command "$MNT/small"
done
refused "rm by a link" "$T/link" "symbolic link" rm "$T/link"
[ -s "$SRC/small" ] && [ -s "$SRC/a.raw" ] || fail "rm removed what it refused"
ok "mounted"

# ---- the owner

doc=$(vdisk --json owner "$MNT/a.raw")
keys owner "$doc" . id host pid epoch state endpoint
assert_eq "a reader's owner" "$(jq -c '[.state, .pid]' <<<"$doc")" "[\"shared\",$pid]"
doc=$(vdisk --json owner "$MNT/holes.raw")
keys "no owner" "$doc" . id host pid epoch state endpoint
assert_eq "no owner" "$(jq -c '[.id, .host, .pid, .epoch, .endpoint]' <<<"$doc")" '[null,null,null,null,null]'
exec {wfd}<>"$MNT/holes.raw"
printf x >&$wfd
assert_eq "a writer's owner" "$(value "$MNT/holes.raw" '"\(.state) \(.pid)"' owner)" "exclusive $pid"
assert_eq "owner in ls" "$(vdisk --json ls | jq -r '.disks[] | select(.name == "holes.raw").owner' | grep -o '[0-9]*$')" "$pid"
ok "owner"

# ---- the cache

doc=$(vdisk --json cache stats)
counters=(capacity_bytes used_bytes slots hits misses hit_bytes miss_bytes backing_reads backing_read_bytes
    coalesced readahead_bytes inserts evictions invalidations checksum_errors bypassed errors)
keys "cache stats" "$doc" . "${counters[@]}"
keys "cache stats of a disk" "$(vdisk --json cache stats "$MNT/a.raw")" . "${counters[@]}"
assert_eq "all numbers" "$(jq '[to_entries[].value | numbers] | length >= 17' <<<"$doc")" true
assert_eq "drop" "$(vdisk --json cache drop "$MNT/a.raw")" '{}'
assert_eq "dropped" "$(value "$MNT/a.raw" .cached_bytes info)" 0
assert_ge "not dropped" "$(value "$MNT/sub dir/b.raw" .cached_bytes info)" 4194304
assert_eq "an action prints nothing" "$(vdisk cache drop "$MNT/sub dir/b.raw")" ''
assert_eq "dropped, though closed" "$(value "$MNT/sub dir/b.raw" .cached_bytes info)" 0
cat "$MNT/a.raw" >/dev/null
assert_eq "flush" "$(vdisk --json cache flush)" '{}'
assert_eq "flushed" "$(value "$MNT/a.raw" .cached_bytes info)" 0
dd if="$MNT/a.raw" of=/dev/null iflag=direct bs=1M status=none
exec {fd}<&- {wfd}<&-
ok "cache"

# ---- dump, check, doctor

doc=$(vdisk --json dump "$MNT/a.raw")
assert_eq "records" "$(jq -c '[.records[].db] | unique | contains(["disk", "layer"])' <<<"$doc")" true
assert_eq "errors" "$(jq -c '[.records[].error] | unique' <<<"$doc")" '[null]'
vdisk dump "$MNT/a.raw" | grep -q 'live_disk_id: [0-9a-f]\{32\}$' || fail "dump as text"
status "check" 0 vdisk --json check
assert_eq "check" "$(jq -c . "$T/out")" '{"errors":[]}'
vdisk --json doctor >"$T/out" || true
keys doctor "$(cat "$T/out")" '.findings[0]' level what mend
# of ours: doctor tells of every mount of the host
assert_eq "no errors" "$(jq -c --arg t "$T" '[.findings[] | select(.level == "error" and (.what | contains($t)))]' \
    "$T/out")" '[]'
ok "dump, check, doctor"

# ---- two mounts

mkdir "$T/src2"
random_file "$T/src2/c.raw" 2M
mount_vd "$T/src2" "$T/mnt2" --cache-size=16M
assert_eq "ls covers both" "$(vdisk --json ls | jq '.disks | length')" 5
refused "which mount?" null "2 mounts are running" cache stats
status "named" 0 vdisk cache stats "$T/mnt2"
umount_vd "$T/mnt2"
ok "two mounts"

# ---- offline again

cached=$(value "$MNT/a.raw" .cached_bytes info)
id=$(value "$MNT/a.raw" .disk_id info)
assert_eq "cached" "$cached" 8388608
umount_vd "$MNT"
assert_eq "cached, offline" "$(value "$SRC/a.raw" .cached_bytes info)" "$cached"
assert_eq "ID, offline" "$(value "$SRC/a.raw" .disk_id info)" "$id"
assert_eq "map, offline" "$(value "$SRC/a.raw" 'map(.cached_bytes) | add' map)" "$cached"
doc=$(vdisk --json --cache="$CACHE" explain "$SRC/a.raw" 0)
assert_eq "explain, offline" "$(jq -c '[.cached, .checksum_ok]' <<<"$doc")" '[true,null]'
assert_eq "owner, offline" "$(value "$SRC/holes.raw" .state owner)" none
jq -e .witness.token >/dev/null < <(vdisk --json --cache="$CACHE" dump "$SRC/a.raw") || fail "witness"
status "check, offline" 0 vdisk --cache="$CACHE" check "$SRC"
ok "offline"

# ---- damage

mv "$SRC/.vdiskfs" "$T/meta"
assert_eq "--meta" "$(vdisk --json --meta="$T/meta" info "$SRC/a.raw" | jq -r .disk_id)" "$id"
mv "$T/meta" "$SRC/.vdiskfs"

data=$CACHE/data
printf scribble | dd of="$data" conv=notrunc bs=1 seek=$(($(stat -c %s "$data") / 2)) status=none
for ((off = 0; off < $(stat -c %s "$data"); off += 4096)); do
    printf scribble | dd of="$data" conv=notrunc oflag=seek_bytes seek=$off status=none
    [ $off -lt 262144 ] || break
done
status "a bad cache" 1 vdisk --json --cache="$CACHE" check "$SRC"
keys "a bad cache" "$(cat "$T/out")" '.errors[0]' path what repaired
assert_ge "bad blocks" "$(jq '.errors | length' "$T/out")" 1

uuid=$(value "$SRC/a.raw" .uuid info)
other=$(value "$SRC/sub dir/b.raw" .uuid info)
printf damage | dd of="$SRC/.vdiskfs/disks/$uuid/meta.mdb" bs=1 seek=5000 conv=notrunc status=none
status "ls with damage" 0 vdisk --json ls "$SRC"
assert_eq "refused" "$(jq -r '.disks[] | select(.name == "a.raw").state' "$T/out")" refused
assert_eq "the others" "$(jq -r '[.disks[] | select(.state == "plain")] | length' "$T/out")" 3
grep -q "$uuid" "$T/err" || fail "the reason does not name the file: $(cat "$T/err")"
refused "dump of damage" "$SRC/a.raw" "meta" dump "$SRC/a.raw"
status "check with damage" 1 vdisk --json check "$SRC"
assert_eq "which" "$(jq -r '.errors[0].path' "$T/out")" a.raw

rm "$SRC/sub dir/b.raw"
status "check with an orphan" 1 vdisk --json check "$SRC"
assert_eq "orphan" "$(jq -r "[.errors[] | select(.path | contains(\"$other\"))] | length" "$T/out")" 1
ok "damage"

# ---- a daemon that was killed

mount_vd "$SRC" "$MNT" --cache="$CACHE"
exec {wfd}<>"$MNT/holes.raw"
printf y >&$wfd
assert_eq "owned" "$(value "$MNT/holes.raw" .state owner)" exclusive
kill -9 "$(vd_pid "$MNT")"
await_vd "$MNT"
refused "dead mount" "$MNT/holes.raw" "daemon is dead" info "$MNT/holes.raw"
status "doctor" 1 vdisk --json doctor
jq -e ".findings[] | select(.level == \"error\" and (.what | contains(\"$MNT\")))" >/dev/null <"$T/out" ||
    fail "doctor does not see the dead mount: $(cat "$T/out")"
exec {wfd}<&-
umount -l "$MNT"
assert_eq "a dead owner is none" "$(value "$SRC/holes.raw" .state owner)" none
ok "killed"
