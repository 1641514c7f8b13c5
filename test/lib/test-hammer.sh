#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# hammer is the judge of every kill test, so it must itself be caught accepting nothing wrong.
. "$(dirname "$0")/common.sh"
hammer=$VD_BUILD/bench/hammer
fault=$VD_BUILD/test/lib/libvd_fault.so
export ASAN_OPTIONS=verify_asan_link_order=0
file=$T/file log=$T/log

verify() {
    local status=0
    "$hammer" verify "$@" >"$T/out" 2>&1 || status=$?
    echo "$status"
}
# put BLOCK: copies standard input over that block of the file
put() {
    dd of="$file" bs=4096 seek="$1" count=1 conv=notrunc status=none
}
get() {
    dd if="$1" bs=4096 skip="$2" count=1 status=none
}
# finds WHAT TEXT: verify must fail and say TEXT; the file is then made whole again
finds() {
    assert_eq "verify with $1" "$(verify "$file" "$log")" 1
    grep -q "$2" "$T/out" || fail "verify with $1 did not say '$2' but: $(cat "$T/out")"
    cp "$T/whole" "$file"
    ok "finds $1"
}

"$hammer" write --seconds=1 --size=2M "$file" "$log" 2>/dev/null
assert_eq "verify of an undisturbed run" "$(verify "$file" "$log")" 0
cp "$file" "$T/older"
"$hammer" write --direct --seconds=1 "$file" "$log" 2>/dev/null
assert_eq "verify of two runs" "$(verify --direct "$file" "$log")" 0
assert_eq "verify of two runs, strictly" "$(verify --done "$file" "$log")" 0
cp "$file" "$T/whole"

printf X | dd of="$file" bs=1 seek=$((7 * 4096 + 2000)) conv=notrunc status=none
finds "a changed byte" "block 7 .*no whole version"
put 9 </dev/zero
finds "zeros" "block 9 .*last flushed version [1-9][0-9]*: holds zeros"
get "$file" 3 | put 4
finds "a misplaced block" "block 4 .*holds block 3 version"
get "$T/older" 5 | put 5
finds "a stale block" "block 5 .*last flushed version [0-9]*: holds version [0-9]*$"
{ get "$file" 6 | head -c 2048; get "$T/older" 6 | tail -c 2048; } >"$T/torn"
put 6 <"$T/torn"
finds "a torn block" "block 6 .*no whole version"
truncate -s 1M "$file"
finds "a short file" "past the end"

head -c $(($(file_bytes "$log") - 5)) "$log" >"$T/cut"
assert_eq "verify with a log cut in its last record" "$(verify "$file" "$T/cut")" 0
cp "$log" "$T/bad"
printf X | dd of="$T/bad" bs=1 seek=330 conv=notrunc status=none
assert_eq "verify with a damaged log" "$(verify "$file" "$T/bad")" 1
assert_eq "verify without a log" "$(verify "$file" "$T/none")" 1
assert_eq "wrong usage" "$(verify)" 2
ok "reads its log with care"

# a write that is torn and killed, or fails, is in flight: both halves are allowed, nothing else
rm "$file" "$log"
for n in 40 90 140; do
    status=0
    {
        VD_FAULT="pwrite:$file:$n:tear=1536,kill" LD_PRELOAD=$fault \
            "$hammer" write --threads=1 --size=256K "$file" "$log"
    } 2>/dev/null || status=$?
    assert_eq "status of a killed hammer" "$status" 137
    assert_eq "verify after a torn write" "$(verify "$file" "$log")" 0
done
grep -q ' [1-9][0-9]* torn in flight' "$T/out" || fail "nothing was torn: $(cat "$T/out")"
ok "allows what was in flight at a kill"

for rule in "pwrite:$file:20:errno=EIO" "fdatasync:$file:2:errno=ENOSPC"; do
    VD_FAULT=$rule LD_PRELOAD=$fault "$hammer" write "$file" "$log" 2>/dev/null ||
        fail "a failing file must end hammer with 0"
    assert_eq "verify after a failed call" "$(verify "$file" "$log")" 0
done
ok "ends when its file fails"

# a short write is no error: it goes on with the rest
VD_FAULT="pwrite:$file:10:tear=4096" LD_PRELOAD=$fault \
    "$hammer" write --seconds=1 "$file" "$log" 2>/dev/null || fail "a short write is to be continued"
assert_eq "verify after a short write" "$(verify "$file" "$log")" 0
"$hammer" write --seconds=60 "$file" "$log" 2>/dev/null &
pid=$!
later $pid
size=$(file_bytes "$log")
wait_for "[ \$(file_bytes '$log') -gt $((size + 10000)) ]" 10
kill $pid
wait $pid || fail "SIGTERM must end hammer with 0"
ok "stops when told"
