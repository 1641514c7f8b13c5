#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The fault interposer does what its rules say: a sweep with an interposer that never fires proves nothing.
. "$(dirname "$0")/common.sh"
lib=$VD_BUILD/test/lib/libvd_fault.so
cd "$T"

# run RULES COMMAND...: its exit status in $status, its output in out
run() {
    local rules=$1
    shift
    status=0
    { VD_FAULT=$rules LD_PRELOAD=$lib "$@" >out 2>&1; } 2>/dev/null || status=$?
}
# says RULES TEXT COMMAND...: the command must fail and print TEXT
says() {
    local text=$2
    run "$1" "${@:3}"
    [ "$status" -ne 0 ] || fail "'$1' did not make this fail: ${*:3}"
    grep -q "$text" out || fail "'$1': expected '$text': $(cat out)"
}

random_file data 64K
says 'create:x:1:errno=EDQUOT' 'Disk quota' cp data x
says 'create:x:1:errno=30' 'Read-only' touch x
says 'mkdir::1:errno=ENOSPC' 'No space' mkdir dir
says 'writes:/x:3+:errno=ENOSPC' 'No space' dd if=data of=x bs=4k
assert_eq "bytes before the third write" "$(file_bytes x)" 8192
says 'rename:y:1:errno=EROFS' 'Read-only' mv x y
says 'unlink:x:1:errno=EIO' 'Input/output' rm x
says 'ftruncate:x:1:errno=EFBIG' 'too large' truncate -s 1M x
says 'fallocate:x:1-2:errno=ENOSPC' 'No space' fallocate -l 1M x
says 'syncs:x:1:errno=EIO' 'Input/output' dd if=data of=x bs=4k conv=fsync
says 'syncs:x:1:errno=EIO' 'Input/output' dd if=data of=x bs=4k conv=fdatasync
ok "fails calls"

run 'writes:/x:2:errno=EIO' sh -c 'cat data >y' # no file x
assert_eq "a rule for another file" "$status" 0
VD_FAULT_COUNT=$T/count run 'writes:/x:1:tear=100' dd if=data of=x bs=4k count=1
assert_eq "a short write, continued by dd" "$status,$(file_bytes x),$(cat count)" 0,4096,2
run 'writes:/x:2:tear=100,kill' dd if=data of=x bs=4k count=3
assert_eq "a torn write, then killed" "$status,$(file_bytes x)" 137,4196
run 'writes:/x:2:kill' dd if=data of=x bs=4k count=3
assert_eq "killed instead of a write" "$status,$(file_bytes x)" 137,4096
start=$(date +%s%N)
run 'writes:/x:1:delay=200' dd if=data of=x bs=4k count=1
assert_ge "a delay, in ms" $((($(date +%s%N) - start) / 1000000)) 200
start=$(date +%s%N)
run 'fdatasync:/x:1:after=200' dd if=data of=x bs=4k conv=fdatasync
assert_ge "a delay after a sync, in ms" $((($(date +%s%N) - start) / 1000000)) 200
ok "tears, kills, delays"

export VD_FAULT_COUNT=$T/count VD_FAULT_RECORD=$T/record
run 'writes:/x:0;create:x:0;any:/x:2:record' dd if=data of=x bs=4k count=5
assert_eq "counts" "$(tr '\n' ' ' <count)" "5 1 5 "
assert_eq "the record" "$(sed "s|$T||" record)" "2 write -1 4096 /x"
unset VD_FAULT_COUNT VD_FAULT_RECORD
rm x
VD_FAULT_ARM=$T/arm run 'any:x:1+:errno=EIO' dd if=data of=x bs=4k
assert_eq "not armed" "$status" 0
touch arm
VD_FAULT_ARM=$T/arm run 'any:x:1+:errno=EIO' dd if=data of=x bs=4k
assert_eq "armed" "$status" 1
ok "counts, records, waits to be armed"

for bad in x 'write:x' 'write:x:1' 'write:x:1:errno=EFOO' 'write:x:1:tear' 'write:x:y:kill' 'writ::1:kill' \
    'write:x:3-2:kill' 'write:x:1:kill,' 'write::1:kill;;'; do
    run "$bad" env true
    assert_eq "status with the rule '$bad'" "$status" 127
done
ok "refuses rules that it does not understand"
