#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The filter `error` fails the Nth request of a workload, N = 1, 2, 3, ... until none fails any more. Each time what was
# done before and after it is there, nothing else has changed, the metadata are clean, and the mount lives.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/filter-lib.sh"
A=$MNT/a.img

injected() {
    filter_is "$A" error .status.injected
}

# fresh: a.img is a new clone of golden.img
fresh() {
    [ ! -e "$A" ] || vdisk rm "$A" || fail "rm"
    vdisk clone "$MNT/golden.img" "$A" || fail "clone"
}

# all_well WHAT: the mount answers, and the metadata are clean
all_well() {
    alive "$(vd_pid "$MNT")" || fail "$1: the daemon died"
    status "$1: check" 0 vdisk check "$MNT"
    cmp "$MNT/golden.img" "$T/golden" || fail "$1: the image that was cloned"
}

random_file "$T/golden" 4M 1
cp "$T/golden" "$SRC/golden.img"
mount_vd "$SRC" "$MNT" --cache-size=16M

# ---- one request after another, of each kind: exactly the Nth is missing

commands=("write -P 1 0 64k" "flush" "write -P 2 60k 12k" "discard 1M 256k" "write -P 3 1100k 4k" "write -z 2M 64k"
    "flush" "write -P 4 512 512" "write -P 5 3M 1M" "discard 3500k 100k" "write -z 3900k 68k" "write -P 6 3510k 20k" "flush")

# run FILE SKIP: the commands but the one of number SKIP (0: all)
run() {
    local args=() i
    for i in "${!commands[@]}"; do
        [ $((i + 1)) -eq "$2" ] || args+=(-c "${commands[i]}")
    done
    qemu-io -f raw -t none -d unmap "${args[@]}" "$1" >"$T/qemu-io" 2>&1
}

for when in before after; do
    n=0
    while :; do
        n=$((n + 1))
        what="$when, $n"
        [ $n -le 40 ] || fail "$what: there is no end"
        fresh
        cp "$T/golden" "$T/expect"
        skip=$n
        [ $when = before ] || skip=0
        run "$T/expect" $skip || fail "$what: on a plain file: $(cat "$T/qemu-io")"
        attach "$A" error nth=$n ops=write,flush,discard,zero when=$when
        exec 5<"$A" # so that the counters stay
        failed=0
        run "$A" 0 || failed=1
        found=$(injected)
        exec 5<&-
        if [ "$n" -le ${#commands[@]} ]; then
            assert_eq "$what: injected" "$found" 1
            assert_eq "$what: QEMU was told" "$failed" 1
            # of a flush that fails it says nothing, but by its exit
            assert_lt "$what: requests that failed" "$(grep -c ' failed: ' "$T/qemu-io")" 2
        fi
        assert_same "$what" "$A" "$T/expect"
        detach "$A" error
        run "$A" 0 || fail "$what: once more: $(cat "$T/qemu-io")"
        run "$T/expect" 0
        assert_same "$what: once more" "$A" "$T/expect"
        all_well "$what"
        [ "$found" -ne 0 ] || break
    done
    assert_ge "$when: requests" $n ${#commands[@]}
    ok "$when: each of $((n - 1)) requests"
done

# ---- qemu-img convert: whatever fails, it is told, or the image is whole

truncate -s 4M "$T/image"
for i in 0 1 3 6; do # data and holes
    dd if="$T/golden" of="$T/image" bs=512k skip=$i seek=$((7 - i)) count=1 conv=notrunc status=none
done
n=0
told=0
while :; do
    n=$((n + 1))
    [ $n -le 60 ] || fail "convert: there is no end"
    fresh
    attach "$A" error nth=$n
    exec 5<"$A"
    failed=0
    qemu-img convert -n -f raw -O raw -t none "$T/image" "$A" >"$T/convert" 2>&1 || failed=1
    found=$(injected)
    exec 5<&-
    detach "$A" error
    if [ $failed -eq 0 ]; then
        assert_same "convert, $n: it said that all is well" "$A" "$T/image"
    else
        assert_eq "convert, $n: injected" "$found" 1
        told=$((told + 1))
        qemu-img convert -n -f raw -O raw -t none "$T/image" "$A" || fail "convert, $n: once more"
        assert_same "convert, $n: once more" "$A" "$T/image"
    fi
    all_well "convert, $n"
    [ "$found" -ne 0 ] || break
done
assert_ge "convert: failures" $told 4
umount_vd "$MNT"
for i in a golden; do
    rm -rf "$SRC/$i.img"
done
ok "qemu-img convert: $told of $((n - 1)) requests that failed were told"

# ---- hammer: what it flushed is there, and nothing was ever anything else; the daemon is killed now and then

verify() {
    "$VD_BUILD/bench/hammer" verify "$A" "$T/log" >"$T/verify" 2>&1 || fail "$1: $(cat "$T/verify")"
}

rm -rf "$SRC/.vdiskfs"
truncate -s 16M "$SRC/golden.img"
cp "$SRC/golden.img" "$T/golden"
mount_vd "$SRC" "$MNT" --cache-size=8M
fresh
n=1
round=0
while [ $n -lt 2000 ]; do
    round=$((round + 1))
    when=before
    [ $((round % 2)) -eq 0 ] || when=after
    attach "$A" error nth=$n when=$when
    exec 5<"$A"
    status "hammer, $n" 0 "$VD_BUILD/bench/hammer" write "$A" "$T/log" --seconds=20 --seed=$round
    assert_eq "hammer, $n: injected" "$(injected)" 1
    grep -q 'Input/output error; stopping' "$T/err" || fail "hammer, $n: was not told: $(cat "$T/err")"
    if [ $((round % 5)) -eq 0 ]; then
        kill_vd "$MNT"
        exec 5<&-
        mount_vd "$SRC" "$MNT" --cache-size=8M
    fi
    detach "$A" error
    exec 5<&-
    verify "hammer, $n"
    verify "hammer, $n: again"
    all_well "hammer, $n"
    n=$((n * 3 / 2 + 1))
done
umount_vd "$MNT"
mount_vd "$SRC" "$MNT"
verify "hammer: after a remount"
umount_vd "$MNT"
! grep -Eq 'never answered|quarantined|held on to' "$T"/vdiskfs-*.log || fail "a log has errors"
ok "hammer: $round times"
