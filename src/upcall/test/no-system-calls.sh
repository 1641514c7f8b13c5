#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# An upcall makes no system call: as many are made in all by ten as by a hundred thousand, of each kind.
. "$(dirname "$0")/../../../test/lib/common.sh"

calls() {
    strace -f -c -o "$T/counts" "$VD_BUILD/bench/upcall" "$1" "$2" >/dev/null
    awk '$NF == "total" {n = $4} END {print n}' "$T/counts"
}
for kind in upcall service nested; do
    assert_eq "system calls of $kind" "$(calls 100000 $kind)" "$(calls 10 $kind)"
done
assert_ge "system calls by swapcontext, which makes some" "$(calls 1000 ucontext)" 7000
ok "no system calls"
