#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# model.sh PROGRAM HOW EXPECTED PAGE: the model prints what is expected, and the page shows it so.
set -euo pipefail
program=$1 how=$2 expected=$3 page=$4
printed=$("$program" "$how")
diff -u "$expected" - <<<"$printed"
# of the page: the indented block that begins with the first line; it shows one round
shown=$(awk -v first="    $(head -n 1 "$expected")" '
    $0 == first {on = 1}
    on && /^    / {print substr($0, 5); next}
    on {exit}' "$page")
diff -u <(printf '%s\n' "$shown") <(sed '/ another$/,$d' <<<"$printed")
