#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A test that is killed leaves nothing behind: no daemon, no mount, no folder.
. "$(dirname "$0")/lib.sh"

# A test with a mount in front, one in the background, and one of another kind, which then waits for its end.
cat >"$T/victim.sh" <<'EOF'
. "$1/lib.sh"
mkdir "$T/tmp" "$T/mnt2"
mount -t tmpfs tmp "$T/tmp"
mount_vd "$SRC" "$MNT"
"$VD_BUILD/vdiskfs" "$SRC" "$T/mnt2" --cache-mode=off
echo "$T" >"$2"
tail -f /dev/null
EOF
pids_in() {
    jq -r .pid "$1"/run/*/info
}

setsid bash "$T/victim.sh" "$here" "$T/victim" >"$T/victim.log" 2>&1 &
victim=$!
later "$victim"
wait_for "[ -s '$T/victim' ] || ! alive $victim" 60
folder=$(cat "$T/victim") || fail "the victim did not mount"
daemons=()
for pid in $(pids_in "$folder"); do
    daemons+=("$pid:$(began "$pid")")
done
assert_eq "daemons" "${#daemons[@]}" 2

kill -9 -- "-$victim"
wait_for "[ ! -e '$folder' ]" 30
grep -q " $folder/" /proc/self/mounts && fail "mounts are left: $(grep " $folder/" /proc/self/mounts)"
for daemon in "${daemons[@]}"; do
    holds "! left $daemon" 10 || fail "a daemon is left: $daemon"
done
ok "a killed test leaves nothing"
