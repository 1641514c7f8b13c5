#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `vdisk filter`: what it prints, refuses and keeps, with a mount and without; filters that are missing; filters, two
# mounts, snapshots, clones, sizes and read-only mounts.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/filter-lib.sh"
A=$MNT/a.img
B=$MNT/b.img

names() {
    vdisk --json filter ls "$1" 2>/dev/null | jq -r '[.filters[].name] | join(" ")'
}

has_keys() {
    local what=$1 json=$2 filter=$3 key
    shift 3
    for key in "$@"; do
        jq -e "$filter | has(\"$key\")" >/dev/null <<<"$json" || fail "$what: no \"$key\" in: $json"
    done
}

random_file "$SRC/a.img" 4M 1
random_file "$SRC/b.img" 2M 2
random_file "$SRC/small" 64K
cp "$SRC/a.img" "$T/a"
cp "$SRC/b.img" "$T/b"

# ---- what there is

doc=$(vdisk --json filter ls)
has_keys "available" "$doc" '.filters[0]' name class config state requests errors description options required why
for name in delay error protect stats throttle trace; do
    jq -e --arg name $name '.filters[] | select(.name == $name) | .class and .why == null' >/dev/null <<<"$doc" ||
        fail "$name is not available: $doc"
done
jq -e '.filters[] | select(.name == "delay").options[] | select(.key == "read") | .type == "duration"' >/dev/null \
    <<<"$doc" || fail "options of delay: $doc"
vdisk filter ls | head -n 1 | grep -Eq '^NAME +CLASS +DESCRIPTION +KEYS' || fail "heading of filter ls"
vdisk filter ls | grep -Eq '^throttle +quota .*iops-total' || fail "filter ls: no throttle"

cp "$VD_BUILD/filters/stats.so" "$FILTERS/open.so"
chmod o+w "$FILTERS/open.so"
echo "no library" >"$FILTERS/text.so"
mkdir "$FILTERS/folder.so"
doc=$(vdisk --filter-dir="$FILTERS" --json filter ls)
for pair in "open:chmod o-w" bad-abi:version.7 bad-symbol:vd_nobody_has_this bad-none:no.symbol.vd_filter_abi \
    bad-name:another bad-class:class bad-size:another.version bad-ops:lacks text:. folder:no.regular.file; do
    name=${pair%%:*}
    jq -e --arg name "$name" --arg words "$name[.]so: .*${pair#*:}" \
        '.filters[] | select(.name == $name) | .state == "missing" and (.why | test($words))' >/dev/null <<<"$doc" ||
        fail "$name in the list: $doc"
    refused "attach of $name" "$SRC/a.img" "$name[.]so: .*${pair#*:}" --filter-dir="$FILTERS" filter attach \
        "$SRC/a.img" "$name"
done
assert_eq "filters of a folder that is not there" \
    "$(vdisk --filter-dir="$T/none" --json filter ls | jq -c .)" '{"filters":[]}'
mkdir "$T/open"
cp "$VD_BUILD/filters/stats.so" "$T/open"
chmod o+w "$T/open"
refused "a folder that everybody may write" "$SRC/a.img" "$T/open: everybody may write it" \
    --filter-dir="$T/open" filter attach "$SRC/a.img" stats
ok "filters that there are, and those that are refused, by name"

# ---- offline, and what is refused in the same words online

# attach_refusals DISK: DISK has the filter delay
attach_refusals() {
    local disk=$1 folder
    folder=$(dirname "$disk")
    refused "no such filter" "$disk" "nosuch[.]so: there is no such filter" filter attach "$disk" nosuch
    refused "a name that leaves the folder" "$disk" "lower-case" filter attach "$disk" ../x
    refused "no such key" "$disk" "foo: there is no such key" filter attach "$disk" error foo=1
    refused "no value" "$disk" "foo: must be KEY=VALUE" filter attach "$disk" error foo
    refused "out of range" "$disk" "rate=2: must be a part, from 0 to 1" filter attach "$disk" error rate=2
    refused "a key that must be given" "$disk" "file must be given" filter attach "$disk" trace
    refused "no choice" "$disk" "EPERM|EIO" filter attach "$disk" error error=EFUN
    refused "a key twice" "$disk" "is given twice" filter attach "$disk" error rate=1 rate=1
    refused "required of no kind" "$disk" "required=perhaps: must be yes or no" filter attach "$disk" error \
        required=perhaps
    refused "what the filter itself refuses" "$disk" "no limit is given" filter attach "$disk" throttle
    refused "twice" "$disk" "it has a filter delay already; detach that first" filter attach "$disk" delay
    refused "detach of what is not there" "$disk" "it has no filter error" filter detach "$disk" error
    refused "attach to a small file" "$folder/small" "not a disk" filter attach "$folder/small" stats
    refused "attach to a folder" "$folder" "no regular file" filter attach "$folder" stats
    refused "attach to nothing" "$folder/none" "No such file" filter attach "$folder/none" stats
    status "attach without a name" 2 vdisk filter attach "$disk"
    status "detach without a name" 2 vdisk filter detach "$disk"
    status "detach of two" 2 vdisk filter detach "$disk" delay error
    status "ls of two" 2 vdisk filter ls "$disk" "$disk"
    assert_eq "filters after all these" "$(names "$disk")" delay
}

assert_eq "filters of one without" "$(vdisk --json filter ls "$SRC/a.img" | jq -c .)" '{"filters":[]}'
assert_eq "an attach prints nothing" "$(vdisk filter attach "$SRC/a.img" delay read=1us)" ''
attach_refusals "$SRC/a.img"
assert_eq "an attach prints an empty document" "$(vdisk --json filter attach "$SRC/a.img" stats)" '{}'
doc=$(vdisk --json filter ls "$SRC/a.img")
has_keys "attached, offline" "$doc" '.filters[0]' name class config state requests errors
assert_eq "attached, offline" "$(jq -c '[.filters[] | [.name, .class, .state, .config]]' <<<"$doc")" \
    '[["delay","inspection","active",{"read":"1us"}],["stats","inspection","active",{}]]'
assert_eq "a detach prints an empty document" "$(vdisk --json filter detach "$SRC/a.img" stats)" '{}'
ok "offline"

# ---- online: order, what is shown, what is kept

mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
attach_refusals "$A"
attach "$A" throttle iops-total=1000000
attach "$A" trace "file=$T/trace.csv"
attach "$A" protect ranges=0-64K,1M+4K required=no
attach "$A" stats
order="delay trace protect stats throttle" # by class, then as they came
assert_eq "order" "$(names "$A")" "$order"
exec 5<>"$A"
assert_eq "order in an open disk" "$(names "$A")" "$order"
assert_same "the bytes" "$A" "$T/a"
assert_fails "a write to what is protected" dd if=/dev/zero of="$A" bs=4k count=1 conv=notrunc,nocreat
doc=$(vdisk --json filter ls "$A")
has_keys "attached" "$doc" '.filters[0]' name class config state requests errors faults deferred status why required
jq -e '[.filters[] | .state == "active" and .requests >= 1 and .faults == 0] | all' >/dev/null <<<"$doc" ||
    fail "all should be active, and have seen requests: $doc"
assert_eq "errors" "$(jq -c '[.filters[] | .errors]' <<<"$doc")" '[0,0,1,0,0]'
assert_eq "required" "$(jq -c '[.filters[] | .required]' <<<"$doc")" '[false,false,false,false,false]'
assert_eq "status of one" "$(jq -c '.filters[2].status.denied' <<<"$doc")" 1
vdisk filter ls "$A" | head -n 1 | grep -Eq '^NAME +CLASS +STATE +REQUIRED +REQUESTS +ERRORS' || fail "heading"
vdisk filter ls "$A" | grep -Eq '^protect +inspection +active +no .* ranges=0-64K,1M\+4K required=no' ||
    fail "table: $(vdisk filter ls "$A")"
assert_eq "by the source" "$(vdisk --json filter ls "$SRC/a.img" | jq -c '[.filters[].requests]')" \
    "$(jq -c '[.filters[].requests]' <<<"$doc")"
doc=$(vdisk --json info "$A")
has_keys "info" "$doc" '.filters[0]' name class config
assert_eq "info" "$(jq -r '[.filters[].name] | join(" ")' <<<"$doc")" "$order"
vdisk info "$A" | grep -q "^filters: ${order// /, }$" || fail "info for people: $(vdisk info "$A")"
assert_eq "explain" "$(vdisk --json explain "$A" 0 | jq -r '.filters | join(" ")')" "$order"
jq -e '[.. | objects | select(.name? == "protect")][0] | .class == 1 or .class == "inspection"' >/dev/null \
    <<<"$(vdisk --json dump "$A")" || fail "dump: $(vdisk --json dump "$A")"
vdisk dump "$A" | grep -q 'name: protect' || fail "dump for people"
exec 5<&-
umount_vd "$MNT"
assert_eq "after the unmount" "$(names "$SRC/a.img")" "$order"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
exec 5<>"$A"
assert_eq "after a remount" "$(vdisk --json filter ls "$A" | jq -c '[.filters[] | [.name, .state]]')" \
    '[["delay","active"],["trace","active"],["protect","active"],["stats","active"],["throttle","active"]]'
assert_fails "a write to what is protected" dd if=/dev/zero of="$A" bs=4k seek=256 count=1 conv=notrunc,nocreat
kill_vd "$MNT"
exec 5<&-
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
exec 5<>"$A"
assert_eq "after a kill" "$(names "$A")" "$order"
assert_fails "a write to what is protected" dd if=/dev/zero of="$A" bs=4k seek=256 count=1 conv=notrunc,nocreat
assert_same "the bytes" "$A" "$T/a"
for name in $order; do
    detach "$A" "$name"
done
assert_eq "after all were detached" "$(vdisk --json filter ls "$A" | jq -c .)" '{"filters":[]}'
printf x >&5 || fail "a write to what was protected"
printf x | dd of="$T/a" conv=notrunc status=none
# closed, it is asked for where the daemon looks
attach "$A" pass1
exec 5<&-
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
for path in "$A" "$SRC/a.img"; do
    assert_eq "a closed disk" "$(vdisk --json filter ls "$path" | jq -c '[.filters[] | [.name, .state]]')" '[["pass1","active"]]'
done
assert_eq "in another folder" "$(vdisk --filter-dir="$T/none" --json filter ls "$A" 2>/dev/null | jq -r '.filters[].state')" missing
detach "$A" pass1
exec 5<>"$A"
ok "online: counters, info, explain, dump; kept when unmounted and killed"

# the order is that in which they see requests: throttle stands below, though it came first
attach "$A" throttle iops-total=1000000
attach "$A" stats
attach "$A" error read=1
eio "a read that an upper filter fails" dd if="$A" of=/dev/null bs=4k count=1 iflag=direct
assert_eq "reads that met throttle, stats and error" \
    "$(for i in throttle stats error; do filter_is "$A" $i .requests; done | tr '\n' ' ')" "0 1 1 "
detach "$A" stats
attach "$A" stats
eio "a read that an upper filter fails" dd if="$A" of=/dev/null bs=4k count=1 iflag=direct
assert_eq "reads that met throttle, stats and error" \
    "$(for i in throttle stats error; do filter_is "$A" $i .requests; done | tr '\n' ' ')" "0 0 2 "
for name in throttle stats error; do
    detach "$A" $name
done
exec 5<&-
ok "the order of filters"

# what the kernel has cached of a file, no filter sees: attach and detach drop it
exec 5<"$B"
assert_same "b" "$B" "$T/b"
attach "$B" error read=1
eio "a read of what the kernel had cached" cat "$B"
eio "by a file that was open before" dd bs=4k count=1 <&5
detach "$B" error
assert_same "b again" "$B" "$T/b"
exec 5<&-
ok "attach takes effect at once, cached or not"

# ---- missing filters

attach "$A" pass1 required=yes
attach "$B" pass1
umount_vd "$MNT"
mv "$FILTERS/pass1.so" "$T/"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
eio "open of a disk whose required filter is missing" bash -c "exec 8<'$A'"
eio "open for writing" bash -c "exec 8<>'$A'"
logs "$MNT" "a.img: .*pass1 is missing: .*pass1[.]so: there is no such filter.*until it is there, or detached"
assert_eq "state" "$(filter_is "$A" pass1 .state)" missing
assert_eq "required" "$(filter_is "$A" pass1 .required)" true
vdisk filter ls "$A" 2>&1 >/dev/null | grep -q "filter pass1 is missing: " || fail "ls does not warn"
assert_same "an optional one is missing: the disk goes on" "$B" "$T/b"
logs "$MNT" "b.img: filter pass1 is missing: .*goes on without it"
exec 5<"$B"
assert_eq "state of the optional one" "$(filter_is "$B" pass1 .state)" missing
exec 5<&-
detach "$A" pass1
assert_same "after the detach" "$A" "$T/a"
attach "$A" pass2 required=yes
umount_vd "$MNT"
# one that is there, and refused; and it comes back
mv "$FILTERS/pass2.so" "$T/"
cp "$T/pass2.so" "$FILTERS/"
chmod o+w "$FILTERS/pass2.so"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
eio "open where a required filter's file is refused" cat "$A"
logs "$MNT" "a.img: .*pass2[.]so: everybody may write it; chmod o-w it"
chmod o-w "$FILTERS/pass2.so"
assert_same "once it may be loaded" "$A" "$T/a"
detach "$A" pass2
detach "$B" pass1
umount_vd "$MNT"
mv "$T"/pass1.so "$FILTERS/"
ok "a required filter that is missing refuses its disk only, until it is there or detached"

# ---- two mounts of one source

OTHER=$T/other
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
mount_vd "$SRC" "$OTHER" --filter-dir="$FILTERS" --cache="$T/cache-other"
exec 5<"$A" 6<"$OTHER/a.img"
cmp "$A" "$OTHER/a.img" || fail "the mounts differ"
attach "$A" error read=1
eio "the other mount's next read" dd bs=4k count=1 <&6
eio "the other mount's next open" cat "$OTHER/a.img"
assert_eq "filters in the other mount" "$(names "$OTHER/a.img")" error
refused "attach where the other owns it" "$OTHER/a.img" "in use .*pid $(vd_pid "$MNT")" \
    filter attach "$OTHER/a.img" stats
detach "$A" error
exec 5<&-
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
assert_same "the other mount, after the detach" "$OTHER/a.img" "$T/a"
# and before its next write
exec 7<>"$OTHER/a.img"
attach "$A" protect ranges=0-4K
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
assert_fails "the other mount's next write" dd if=/dev/zero of="$OTHER/a.img" bs=4k count=1 conv=notrunc,nocreat
exec 6<&- 7<&-
assert_same "nothing was written" "$SRC/a.img" "$T/a"
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
detach "$OTHER/a.img" protect
# and before its next snapshot
exec 6<"$OTHER/a.img"
attach "$A" faulty where=event
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
refused "a snapshot through the other mount" "$OTHER/a.img" "filter faulty" snapshot "$OTHER/a.img" s0
exec 6<&-
detach "$OTHER/a.img" faulty
umount_vd "$OTHER"
umount_vd "$MNT"
ok "what one mount attaches, the other sees before its next read or write"

# ---- snapshots, clones, sizes

mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
attach "$A" protect ranges=3M-4M
attach "$A" stats
vdisk snapshot "$A" s1
dd if=/dev/urandom of="$A" bs=64k count=1 conv=notrunc,nocreat status=none
assert_fails "a write to what is protected, behind a snapshot" \
    dd if=/dev/zero of="$A" bs=64k seek=48 count=1 conv=notrunc,nocreat
vdisk clone "$A" "$MNT/c.img" --snapshot s1
vdisk clone "$A" "$MNT/d.img"
assert_eq "filters of a clone" "$(vdisk --json filter ls "$MNT/c.img" | jq -c .)" '{"filters":[]}'
assert_same "the clone" "$MNT/c.img" "$T/a"
dd if=/dev/zero of="$MNT/d.img" bs=64k seek=48 count=1 conv=notrunc,nocreat status=none ||
    fail "what is protected in the disk is not in its clone"
vdisk revert "$A" s1
assert_same "after the revert" "$A" "$T/a"
assert_eq "filters after the revert" "$(names "$A")" "protect stats"
status "a cut that a filter refuses" 1 vdisk resize --shrink "$A" 2M
assert_fails "a truncation that a filter refuses" truncate -s 2M "$A"
logs "$MNT" "a.img: .*filter protect: the cut would take bytes in a protected range away"
assert_eq "size" "$(file_bytes "$A")" $((4 << 20))
vdisk resize "$A" 6M
vdisk resize --shrink "$A" 5M
assert_eq "size that a filter allows" "$(file_bytes "$A")" $((5 << 20))
truncate -s 4M "$A"
attach "$A" faulty where=event
refused "a snapshot that a filter fails" "$A" "filter faulty: .*event" snapshot "$A" s2
assert_eq "snapshots" "$(vdisk --json snapshots "$A" | jq -r '[.snapshots[].name] | join(" ")')" s1
detach "$A" faulty
vdisk snapshot "$A" s2
umount_vd "$MNT"
status "check" 0 vdisk check "$SRC"
ok "snapshots, clones, revert and resize"

# ---- read-only

mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS" --read-only
exec 5<"$A"
assert_same "through filters" "$A" "$T/a"
assert_ge "reads that a filter has seen" "$(filter_is "$A" stats .requests)" 1
refused "attach on a read-only mount" "$A" "read-only" filter attach "$A" error
refused "detach on a read-only mount" "$A" "read-only" filter detach "$A" stats
assert_eq "filters" "$(names "$A")" "protect stats"
exec 5<&-
umount_vd "$MNT"
vdisk filter attach "$SRC/a.img" error read=1
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS" --read-only
eio "a read of a read-only mount" cat "$A"
umount_vd "$MNT"
ok "read-only mounts"
