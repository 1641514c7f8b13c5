#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cuts the power of a run, afterwards, at many places. A workload runs once on a recorded file system that holds the
# source, two caches and the logs of hammer; then, cut by cut, what would have been left is mounted with another boot
# ID, and must hold what was flushed, read the same with and without a cache, and pass `vdisk check`.
#
#   powercut.sh [--cuts=N] [--seed=N] [--keep=FILE] WORKLOAD...
#   powercut.sh --replay=HISTORY,AT,MODE,SEED,VARIANT WORKLOAD     one cut again, as a failure prints it
#
# A workload is a function record_NAME, which leaves $W/told/DISK.log for each disk that hammer wrote, and may be joined by
# verify_NAME for what only it knows, called with the mount that has the cut's own cache.
# Variants: `own`, the cache that was cut off with the source; `new`, an empty one; `other`, the second cache, with which
# the source was mounted in between; `old:N`, the cache as an earlier cut left it.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../lib/common.sh"
. "$here/../lib/mount.sh"

CUTS=12 LOOKED=0 SEED=${VD_SEED:-$RANDOM} KEEP='' REPLAY='' WORKLOADS=()
for arg in "$@"; do
    case $arg in
    --cuts=*) CUTS=${arg#*=} ;;
    --seed=*) SEED=${arg#*=} ;;
    --keep=*) KEEP=${arg#*=} ;;
    --replay=*) REPLAY=${arg#*=} ;;
    *) WORKLOADS+=("$arg") ;;
    esac
done
POWERCUT=$VD_BUILD/test/fault/powercut
HAMMER=$VD_BUILD/bench/hammer
W=$T/world MNT=$T/mnt H=$T/history
BOOT_BEFORE=VDISKFS_TEST_BOOT_ID=00000000-0000-4000-8000-000000000001
BOOT_AFTER=VDISKFS_TEST_BOOT_ID=00000000-0000-4000-8000-000000000002
mkdir "$W" "$MNT"

# As in common.sh, but a failed cut leaves its history and says how to see it again.
THIS_CUT=''
fail() {
    echo "FAIL: $*" >&2
    if [ -n "$THIS_CUT" ]; then
        local kept=${KEEP:-${TMPDIR:-/tmp}/vdiskfs-powercut-$$.history}
        [ "$H" = "$kept" ] || cp "$H" "$kept"
        echo "again: VD_BUILD=$VD_BUILD $0 --replay=$kept,$THIS_CUT $WORKLOAD" >&2
    fi
    exit 1
}

# ---- the world ----

world_pid=
start_world() {
    world_pid=$("$POWERCUT" "$@") || fail "powercut $*"
    later "$world_pid"
}

# The history is whole once it has ended.
end_world() {
    kill "$world_pid"
    wait_for "! alive $world_pid" 30
}

settle() {
    setfattr -n user.powercut.settle -v 1 "$W"
}

# hammer_on DISK SECONDS [KILL]: writes it through the mount, and goes on where an earlier run ended. It flushes at the
# end, unless it is killed. One that is told to stop before it began has done nothing, and that is no failure.
hammer_on() {
    local status=0
    timeout --foreground --preserve-status -s "${3:-TERM}" "$2" "$HAMMER" write --seed="$SEED" --threads=2 "$MNT/$1.img" \
        "$W/told/$1.log" 2>>"$T/hammer.log" || status=$?
    case $status in
    0 | 137 | 143) ;;
    *) fail "hammer on $1: $(tail -n 3 "$T/hammer.log")" ;;
    esac
}

mount_world() {
    mount_vd "$W/src" "$MNT" "--cache=$W/$1" --cache-size=6M "${@:2}"
}

# ---- workloads ----

record_plain() {
    truncate -s 4M "$W/src/a.img"
    truncate -s 8M "$W/src/b.img"
    settle
    mount_world cache
    hammer_on a 0.4 &
    local a=$!
    hammer_on b 0.3
    wait $a || fail "hammer on a"
    umount_vd "$MNT"
    mount_world cache # clean: warm
    cat "$MNT/a.img" "$MNT/b.img" >/dev/null
    hammer_on a 0.2
    umount_vd "$MNT"
    mount_world cache2
    hammer_on a 0.2
    umount_vd "$MNT"
    mount_world cache
    hammer_on b 0.3
    umount_vd "$MNT"
}

# A disk is detached when it is closed, and again and again clean while the cache stays open and another is written.
record_reopen() {
    local how n
    truncate -s 1M "$W/src/a.img"
    truncate -s 2M "$W/src/b.img"
    settle
    for n in 1 2; do
        # Nobody synced it, and it is cached. A new file each time: after a power cut one that was written over, outside a
        # mount and unsynced, may have its old time stamps, by which it would be known.
        random_file "$W/src/c.new" 1M "$n"
        mv "$W/src/c.new" "$W/src/c.img"
        mount_world cache
        cat "$MNT"/*.img >/dev/null
        for how in TERM KILL TERM KILL TERM; do
            hammer_on a 0.05 "$how"
            hammer_on b 0.08
            cat "$MNT/a.img" >/dev/null
        done
        umount_vd "$MNT"
    done
}

# Disks with layers. Each command is noted in told/ops, before and after, with how long the log of its disk was; so of a cut it
# is known whether the command had been answered, and what a snapshot must hold:
#
#   told/DISK@NAME.snap   what hammer's log says of a snapshot; made once it was answered
#   told/DISK.alt         while a revert is under way: what DISK may hold instead

records() {
    local bytes=0
    [ ! -e "$W/told/$1.log" ] || bytes=$(file_bytes "$W/told/$1.log")
    echo $((bytes / 32))
}

# put_log FROM BEGAN ENDED NAME: the log of a copy, in told/ at once and whole
put_log() {
    "$POWERCUT" log "--began=$2" "--ended=$3" "$W/told/$1" "$W/told/new" && mv "$W/told/new" "$W/told/$4"
}

# op KIND DISK NAME [ARGS...]
op() {
    local began
    began=$(records "$2")
    echo "$1 $2 $3 began $began" >>"$W/told/ops"
    case $1 in
    clone) vdisk clone "$MNT/$2.img" "$MNT/$3.img" "${@:4}" ;;
    flatten | rm) vdisk "$1" "$MNT/$2.img" ;;
    *) vdisk "$1" "$MNT/$2.img" "$3" ;;
    esac >"$T/op.out" 2>&1 || fail "vdisk $*: $(cat "$T/op.out")"
    OP_BEGAN=$began OP_ENDED=$(records "$2")
    echo "$1 $2 $3 ended $OP_ENDED" >>"$W/told/ops"
}

take_snapshot() {
    op snapshot "$1" "$2"
    put_log "$1.log" "$OP_BEGAN" "$OP_ENDED" "$1@$2.snap"
}

make_clone() {
    op clone "$1" "$2"
    put_log "$1.log" "$OP_BEGAN" "$OP_ENDED" "$2.log"
}

clone_snapshot() {
    op clone "$1" "$3" --snapshot "$2"
    cp "$W/told/$1@$2.snap" "$W/told/new"
    mv "$W/told/new" "$W/told/$3.log"
}

revert_to() {
    cp "$W/told/$1@$2.snap" "$W/told/new"
    mv "$W/told/new" "$W/told/$1.alt"
    op revert "$1" "$2"
    mv "$W/told/$1.alt" "$W/told/$1.log"
}

remove_disk() {
    mv "$W/told/$1.log" "$W/told/$1.removed"
    op rm "$1" -
}

record_layers() {
    truncate -s 2M "$W/src/a.img"
    settle
    mount_world cache
    hammer_on a 0.5 &
    local hammer=$!
    wait_for "[ \$(records a) -gt 200 ]" 20
    take_snapshot a s1
    make_clone a c1
    take_snapshot a s2
    wait $hammer || fail "hammer on a"
    hammer_on c1 0.1 &
    hammer=$!
    hammer_on a 0.1
    take_snapshot a s3
    wait $hammer || fail "hammer on c1"
    clone_snapshot a s1 c2
    hammer_on a 0.05
    op snapshot-rm a s1
    hammer_on c2 0.05
    umount_vd "$MNT"
    mount_world cache2
    cat "$MNT"/*.img >/dev/null
    revert_to a s2
    hammer_on a 0.1
    op flatten c1 -
    hammer_on c1 0.05
    remove_disk c2
    op snapshot-rm a s3
    umount_vd "$MNT"
    mount_world cache
    hammer_on a 0.1 KILL
    umount_vd "$MNT"
}

# A snapshot is there as a whole or not at all: it must be cloned to be looked at.
verify_snapshot() {
    local disk=$1 name=$2 began=$3 ended=$4 log=$W/told/$1@$2.snap
    if ! vdisk clone "$MNT/$disk.img" "$MNT/look.img" --snapshot "$name" >"$T/op.out" 2>&1; then
        [ -z "$ended" ] || fail "snapshot $disk@$name is gone: $(cat "$T/op.out")"
        return 0
    fi
    if [ ! -e "$log" ]; then
        log=$T/look.notes
        "$POWERCUT" log "--began=$began" "--ended=${ended:-$(records "$disk")}" "$W/told/$disk.log" "$log"
    fi
    # one that was cut off before hammer began holds zeros, and there is no log to say so
    [ ! -s "$log" ] || holds_what "$MNT/look.img" "$log" || fail "snapshot $disk@$name: $(head -n 5 "$T/verify.out")"
    LOOKED=$((LOOKED + 1))
    vdisk rm "$MNT/look.img" >"$T/op.out" 2>&1 || fail "rm of a clone: $(cat "$T/op.out")"
}

# ops_of KIND: the last of each disk and name, as "DISK NAME BEGAN ENDED", of which the last may be missing
ops_of() {
    [ ! -e "$W/told/ops" ] || awk -v kind="$1" '$1 == kind {
        key = $2 " " $3
        if ($4 == "began") { began[key] = $5; delete ended[key] } else ended[key] = $5
    } END { for (key in began) print key, began[key], ended[key] }' "$W/told/ops"
}

verify_layers() {
    local disk name began ended removed
    removed=$(ops_of snapshot-rm)
    while read -r disk name began ended; do
        case $'\n'$removed in
        *$'\n'"$disk $name "*) ;;
        *) verify_snapshot "$disk" "$name" "$began" "$ended" ;;
        esac
    done < <(ops_of snapshot)
    while read -r disk name began ended; do
        [ -z "$ended" ] || ! vdisk clone "$MNT/$disk.img" "$MNT/look.img" --snapshot "$name" >/dev/null 2>&1 ||
            fail "snapshot $disk@$name was removed, and is there"
    done <<<"$removed"
    while read -r disk name began ended; do
        [ -e "$W/told/$name.log" ] || [ -e "$W/told/$name.removed" ] || [ -n "$ended" ] || [ ! -e "$MNT/$name.img" ] ||
            [ "$began" -eq 0 ] || { # a clone of the disk itself that was not answered
            "$POWERCUT" log "--began=$began" "--ended=$(records "$disk")" "$W/told/$disk.log" "$T/look.notes"
            holds_what "$MNT/$name.img" "$T/look.notes" || fail "clone $name: $(head -n 5 "$T/verify.out")"
        }
    done < <(ops_of clone | grep -v ' c2 ')
    while read -r disk name began ended; do
        [ -z "$ended" ] || [ ! -e "$MNT/$disk.img" ] || fail "$disk.img was removed, and is there"
    done < <(ops_of rm)
}

# ---- one cut ----

sums() {
    (cd "$1" && find . -name .vdiskfs -prune -o -name '*.img' -type f -print0 | sort -z | xargs -r0 sha256sum) ||
        fail "a disk cannot be read"
}

# holds_what FILE LOG
holds_what() {
    "$HAMMER" verify "$1" "$2" >"$T/verify.out" 2>&1
}

verify_logs() {
    local log disk
    for log in "$W"/told/*.log; do
        disk=$(basename "$log" .log)
        [ -s "$log" ] || continue
        [ -e "$MNT/$disk.img" ] || fail "$disk.img is gone"
        if [ -e "$W/told/$disk.alt" ] && holds_what "$MNT/$disk.img" "$W/told/$disk.alt"; then
            continue
        fi
        "$POWERCUT" log "$log" "$T/cut.notes"
        holds_what "$MNT/$disk.img" "$T/cut.notes" || fail "$disk: $(head -n 5 "$T/verify.out")"
    done
}

# Clean, or mended by --repair. What may be left over is the metadata of a plain disk whose file lost, with the cut, the
# attribute that named it: it has become a new disk, and only room was lost.
must_check() {
    vdisk check "$1" >"$T/check.out" 2>&1 && return
    vdisk check "$1" --repair >/dev/null 2>&1 && return
    vdisk check "$1" >"$T/check.out" 2>&1 && return
    ! grep -v 'no file belongs to it' "$T/check.out" >"$T/check.left" || fail "vdisk check: $(head -n 5 "$T/check.left")"
}

# look_at_cut AT MODE SEED VARIANT
look_at_cut() {
    local at=$1 mode=$2 seed=$3 variant=$4 cache=cache graft=()
    THIS_CUT=$at,$mode,$seed,$variant
    case $variant in
    new) cache=cache-new ;;
    other) cache=cache2 ;;
    old:*) graft=("--graft=cache:${variant#old:}") ;;
    esac
    start_world serve "--at=$at" "--mode=$mode" "--seed=$seed" "${graft[@]}" "$W" "$H"
    mount_world $cache
    sums "$MNT" >"$T/first"
    verify_logs
    sums "$MNT" >"$T/second"
    assert_same "reads from the cache" "$T/first" "$T/second"
    must_check "$MNT"
    if [ "$variant" = own ] && declare -F "verify_$WORKLOAD" >/dev/null; then
        "verify_$WORKLOAD"
    fi
    umount_vd "$MNT"
    mount_world $cache --cache-mode=off
    sums "$MNT" >"$T/second"
    assert_same "reads without a cache" "$T/first" "$T/second"
    umount_vd "$MNT"
    end_world
    THIS_CUT=''
}

record() {
    H=$T/history-$WORKLOAD
    vd_env=("$BOOT_BEFORE")
    start_world record --delay=2000 --poke=cache/slots --poke=cache2/slots "$W" "$H"
    mkdir "$W/src" "$W/cache" "$W/cache2" "$W/told"
    "record_$WORKLOAD"
    end_world
}

run_cuts() {
    local n=0 modes=(random strict dropped random strict kept) variants=(own old own new own other own)
    local at places variant
    mapfile -t places < <("$POWERCUT" pick "--count=$CUTS" "--seed=$SEED" "$H")
    vd_env=("$BOOT_AFTER")
    for at in "${places[@]}"; do
        variant=${variants[n % ${#variants[@]}]}
        [ "$variant" != old ] || variant=old:$((at * (1 + (SEED + n) % 9) / 10))
        look_at_cut "$at" "${modes[n % ${#modes[@]}]}" $((SEED + n)) "$variant"
        n=$((n + 1))
    done
    ok "$WORKLOAD: $n cuts of a history of $(file_bytes "$H") bytes, $LOOKED snapshots looked at"
}

echo "seed $SEED"
for WORKLOAD in "${WORKLOADS[@]}"; do
    if [ "$WORKLOAD" = layers ] && ! vdisk --help 2>&1 | grep -q snapshot; then
        skip "this vdisk makes no snapshots"
    fi
    if [ -n "$REPLAY" ]; then
        IFS=, read -r H at mode seed variant <<<"$REPLAY"
        vd_env=("$BOOT_AFTER")
        look_at_cut "$at" "$mode" "$seed" "$variant"
        continue
    fi
    record
    [ -z "$KEEP" ] || cp "$H" "$KEEP"
    run_cuts
done
