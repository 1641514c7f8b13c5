#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A filter's attach and detach, cut at each step: wholly done or not at all, the metadata clean, the bytes the same.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"

SRC=$T/src
mkdir "$SRC"
random_file "$SRC/a.img" 4M
cp "$SRC/a.img" "$T/expect"

attached() {
    vdisk --json filter ls "$SRC/a.img" | jq -r '[.filters[].name] | join(" ")'
}

# cut WHAT WANT_BEFORE WANT_AFTER COMMAND...: COMMAND is killed at each of its steps in turn
cut_each() {
    local what=$1 before=$2 after=$3 n=1 status done_once=0
    shift 3
    while :; do
        status=0
        VDISKFS_TEST_KILL_STEP=$n "$VD_BUILD/vdisk" "$@" >"$T/out" 2>&1 || status=$?
        [ "$status" -eq 0 ] || [ "$status" -eq 137 ] || fail "$what, step $n: status $status: $(cat "$T/out")"
        case $(attached) in
        "$before") [ "$status" -ne 0 ] || fail "$what was done, and is not" ;;
        "$after") done_once=1 ;;
        *) fail "$what, step $n: the disk has '$(attached)'" ;;
        esac
        vdisk --json check "$SRC" >"$T/check" || fail "$what, step $n: $(cat "$T/check")"
        [ "$done_once" -eq 0 ] || break
        n=$((n + 1))
    done
    [ "$n" -gt 1 ] || fail "$what was never cut before it was done"
    ok "$what: done at step $n"
}

cut_each attach "" trace filter attach "$SRC/a.img" trace "file=$T/trace.csv"
cut_each "a second attach" trace "trace stats" filter attach "$SRC/a.img" stats
cut_each detach "trace stats" stats filter detach "$SRC/a.img" trace

# in a mount: the daemon is killed instead
mount_vd "$SRC" "$T/mnt"
umount_vd "$T/mnt"
for n in 3 4; do # what an earlier attach may have left is removed in the first two
    vd_env=("VDISKFS_TEST_KILL_STEP=$n")
    mount_vd "$SRC" "$T/mnt"
    vd_env=()
    assert_fails "attach, the daemon killed" "$VD_BUILD/vdisk" filter attach "$T/mnt/a.img" delay read=1ms
    await_vd "$T/mnt"
    umount -l "$T/mnt"
    case $n in
    3) assert_eq "before the commit" "$(attached)" stats ;;
    4) assert_eq "after it" "$(attached)" "stats delay" ;;
    esac
    mount_vd "$SRC" "$T/mnt"
    assert_same "the bytes" "$T/mnt/a.img" "$T/expect"
    umount_vd "$T/mnt"
    vdisk --json check "$SRC" >"$T/check" || fail "check: $(cat "$T/check")"
done
ok "a killed daemon"
