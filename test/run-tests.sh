#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run test | soak | fuzz. Builds what the sanitizers need beside the plain build, runs the suites by meson,
# and adds up what they counted. The last line is "N passed, N failed".
set -uo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${VD_BUILD:-$top/build}
passed=0
failed=0

# A sanitizer build beside the plain one: sanitized NAME CC MESON-ARGS...
sanitized() {
    local dir="$build-$1" cc=$2
    shift 2
    if [ ! -f "$dir/build.ninja" ]; then
        CC=$cc meson setup "$dir" "$top" -Dman=false "$@" >"$dir.log" 2>&1 || { cat "$dir.log"; return 1; }
        rm -f "$dir.log"
    fi
    ninja -C "$dir" --quiet
}

# Runs meson's tests with the given arguments and adds their counts: suite TITLE DIR ARGS...
suite() {
    local title=$1 dir=$2 out
    shift 2
    echo "== $title"
    out=$(mktemp)
    meson test -C "$dir" --no-rebuild --print-errorlogs --num-processes 2 "$@" 2>&1 | tee "$out"
    local ok bad
    ok=$(awk '/^Ok: /{n += $2} /^Expected Fail: /{n += $3} END {print n + 0}' "$out")
    bad=$(awk '/^(Fail|Timeout|Skipped): /{n += $2} /^Unexpected Pass: /{n += $3} END {print n + 0}' "$out")
    rm -f "$out"
    if [ "$bad" -gt 0 ]; then # meson prints the end of a long log only; what failed stands elsewhere in it
        jq -r 'select(.result != "OK") | (.stdout // "") + (.stderr // "")' "$dir/meson-logs/testlog.json" |
            grep -aE ':[FE]:|FAIL|ERROR: |SUMMARY: ' | head -n 20
    fi
    [ "$((ok + bad))" -gt 0 ] || bad=1
    passed=$((passed + ok))
    failed=$((failed + bad))
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

broken() {
    echo "$1"
    failed=$((failed + 1))
}

what=${1:-test}
case "$what" in
test)
    suite "unit" "$build" --suite unit
    suite "mount, guest, faults" "$build" --suite mount
    suite "upcalls and filters under valgrind" "$build" --suite valgrind \
        --wrapper "valgrind -q --fair-sched=try --error-exitcode=9 --suppressions=$top/test/lib/valgrind.supp"
    # clang here, so that both compilers' warnings are errors somewhere
    if sanitized asan clang -Db_sanitize=address,undefined -Db_lundef=false -Dbench=true; then
        suite "unit under ASan and UBSan" "$build-asan" --suite unit
        suite "mount under ASan and UBSan" "$build-asan" --suite mount-asan
    else
        broken "the ASan build failed"
    fi
    if sanitized tsan gcc -Db_sanitize=thread -Dbench=true; then
        suite "concurrency under TSan" "$build-tsan" --suite tsan
    else
        broken "the TSan build failed"
    fi
    ;;
soak)
    suite "soak" "$build" --suite soak --timeout-multiplier 0
    ;;
fuzz)
    if sanitized fuzz clang -Dfuzz=true -Dtests=true -Dbench=false -Db_sanitize=address,undefined -Db_lundef=false; then
        suite "fuzz" "$build-fuzz" --suite fuzz --timeout-multiplier 0
    else
        broken "the fuzz build failed"
    fi
    ;;
esac
finish
