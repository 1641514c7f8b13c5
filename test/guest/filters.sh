#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A guest writes and flushes all the time while filters of each class come and go on its disk and snapshots are taken: it meets
# no error, its last round of writes is there, and the filters have seen it. A second one writes where it may not.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"
. "$(dirname "$0")/lib.sh"
shopt -s extglob
guest_prepare

rounds=${1:-8}
blocks=8 # the stamper's, each in a cache slot of its own
stride=40
DISK=$T/mnt/disk.img

# flushed: the newest stamp that the guest has reported
flushed() {
    local last
    last=$(grep -ao 'stamp [0-9]\{8\}' "$T/console" | tail -n 1) || true
    last=${last#stamp }
    echo $((10#${last:-0}))
}

# newer STAMP: has the guest reported a later one? The end of the guest ends the wait for it.
newer() {
    alive "$guest" || return 0
    [ "$(flushed)" -gt "$1" ]
}

# goes_on: the guest writes on
goes_on() {
    wait_for "newer $(($(flushed) + 1))" 60
    alive "$guest" || fail "the guest ended before it was told to: $(tail -n 20 "$T/console")"
}

attach() {
    vdisk filter attach "$DISK" "$@" || fail "attach $*"
}

detach() {
    vdisk filter detach "$DISK" "$1" || fail "detach $1"
}

filter_is() {
    vdisk --json filter ls "$DISK" | jq -r --arg name "$1" ".filters[] | select(.name == \$name) | $2"
}

mkdir "$T/src" "$T/stamper"
cp "$(dirname "$0")/stamper" "$T/stamper/"
(cd "$T/stamper" && echo stamper | cpio -o -H newc --quiet) | gzip -1 | cat "$GUEST_DIR/initrd" - >"$T/stamper.initrd"
truncate -s 8M "$T/src/disk.img"
mount_vd "$T/src" "$T/mnt" --cache-size=64M
attach stats

mkfifo "$T/in"
timeout 180 qemu-system-x86_64 -nodefaults -no-user-config -machine pc -accel tcg -m 192 -smp 1 \
    -display none -no-reboot -chardev "stdio,id=console,signal=off" -serial chardev:console \
    -kernel "$GUEST_DIR/vmlinuz" -initrd "$T/stamper.initrd" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/stamper guest.blocks=$blocks guest.stride=$stride" \
    -drive "file=$DISK,format=raw,if=virtio,cache=none" <>"$T/in" >"$T/console" 2>"$T/qemu.log" &
guest=$!
later $guest
wait_for "newer $blocks" 120

for ((i = 0; i < rounds; i++)); do
    attach trace "file=$T/trace.csv"
    attach throttle iops-total=500 bps-total=8M
    goes_on
    attach delay all=20ms jitter=50%
    attach protect ranges=6M-8M
    vdisk snapshot "$DISK" "s$i" || fail "snapshot s$i"
    goes_on
    assert_ge "round $i: requests that were held" "$(filter_is delay .deferred)" 1
    for name in throttle trace delay protect; do
        detach $name
    done
    goes_on
done
reported=$(filter_is stats .status.ops.write.requests)
echo end >"$T/in"
status=0
wait $guest || status=$?
assert_eq "exit status of QEMU ($(cat "$T/qemu.log"))" $status 0
GUEST_OUT=$(tr -d '\r' <"$T/console")
grep -q '^guest-end' <<<"$GUEST_OUT" || fail "the guest did not finish: $(tail -n 20 <<<"$GUEST_OUT")"
! grep '^error' <<<"$GUEST_OUT" >&2 || fail "the guest met an error"
written=$(guest_said stamps)
assert_eq "stamps that the guest reported" "$(flushed)" "$written"
assert_ge "writes that stats has seen" "$reported" $((written - 8))
assert_ge "lines of the trace" "$(grep -c ,write, "$T/trace.csv")" "$rounds"

# verify FILE: the last round of stamps is there
verify() {
    local i stamp text
    for ((i = 0; i < blocks; i++)); do
        stamp=$((written - (written - i) % blocks))
        text=$(dd if="$1" bs=4096 skip=$((i * stride)) count=1 status=none | tr -d '\0')
        assert_eq "block $i of $1" "${#text} ${text##+(0)}" "4096 $stamp"
    done
}
verify "$DISK"
umount_vd "$T/mnt"
mount_vd "$T/src" "$T/mnt" --cache-size=64M
verify "$DISK"
vdisk check "$T/mnt" >/dev/null || fail "check"
ok "a guest wrote and flushed $written times while filters came and went $rounds times, without an error"

# where it may not: the guest is told, and not a byte has changed
attach protect ranges=4M-5M
cp "$DISK" "$T/before"
(guest_boot "$DISK" write=forbidden at=1100) >"$T/forbidden" 2>&1 && fail "the guest wrote where it may not"
grep -q '^error write' "$T/forbidden" || fail "the guest failed otherwise: $(cat "$T/forbidden")"
guest_boot "$DISK" write=allowed at=1300
assert_eq "what the guest reads back" "$(guest_said wrote)" allowed
printf allowed | dd of="$T/before" bs=4096 seek=1300 conv=notrunc status=none
assert_same "the disk" "$DISK" "$T/before"
umount_vd "$T/mnt"
ok "a guest cannot write what is protected"
