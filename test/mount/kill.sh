#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SIGKILL of the daemon while `hammer` writes, again and again: every block is as new as its last flush and was
# never anything else, read through the mount with what the cache kept. $1: rounds (10).
. "$(dirname "$0")/lib.sh"
rounds=${1:-10}

flushes() {
    [ -s "$T/log" ] && [ "$(stat -c %s "$T/log")" -gt "$1" ]
}

truncate -s 16M "$SRC/disk.img"
for round in $(seq "$rounds"); do
    options=(--cache-size=8M)
    case $((round % 4)) in
    1) options+=(--cache-mode=writearound) ;;
    2) options=(--cache-size=64M) ;;
    esac
    mount_vd "$SRC" "$MNT" "${options[@]}"
    rm -f "$T/log"
    truncate -s 0 "$SRC/fresh" # a file of its own, so that the log begins with what is there
    fresh=disk-$round.img
    truncate -s 16M "$SRC/$fresh"
    "$VD_BUILD/bench/hammer" write "$MNT/$fresh" "$T/log" --seconds=60 --seed="$round" >"$T/hammer.log" 2>&1 &
    hammer=$!
    later $hammer
    # some readers, so that fills are in flight too
    (while dd if="$MNT/$fresh" of=/dev/null bs=128K status=none 2>/dev/null; do :; done) &
    reader=$!
    later $reader
    # a different moment each round
    wait_for "flushes $((round * 7919 % 60000 + 20000))" 60
    kill_vd "$MNT"
    wait $hammer 2>/dev/null || true
    wait $reader 2>/dev/null || true
    mount_vd "$SRC" "$MNT" "${options[@]}"
    "$VD_BUILD/bench/hammer" verify "$MNT/$fresh" "$T/log" || fail "round $round: after the kill"
    "$VD_BUILD/bench/hammer" verify "$MNT/$fresh" "$T/log" || fail "round $round: from the cache"
    umount_vd "$MNT"
    "$VD_BUILD/bench/hammer" verify "$SRC/$fresh" "$T/log" || fail "round $round: in the source"
    rm "$SRC/$fresh"
done
ok "$rounds rounds"
