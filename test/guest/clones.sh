#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Guests on clones of one image. Several boot at once: the image is read once for all, and what each writes only
# it sees. One writes and flushes all the time while snapshots are taken: it meets no error, and each snapshot
# holds exactly what it had written up to one moment, everything it had flushed by then included.
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"
. "$(dirname "$0")/lib.sh"
shopt -s extglob
guest_prepare

mib=24
nguests=3
snapshots=12
blocks=8 # the stamper's, each in a cache slot of its own
stride=40

# guest_start NAME DISK INITRD WORD...: as guest_boot, but does not wait. Its console is $T/NAME.console, and what is
# written to $T/NAME.in it reads.
declare -A GUEST_PIDS=()
guest_start() {
    local name=$1 disk=$2 initrd=$3
    shift 3
    mkfifo "$T/$name.in"
    timeout 180 qemu-system-x86_64 -nodefaults -no-user-config -machine pc -accel tcg -m 192 -smp 1 \
        -display none -no-reboot -chardev "stdio,id=console,signal=off" -serial chardev:console \
        -kernel "$GUEST_DIR/vmlinuz" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1 no_timer_check $*" \
        -drive "file=$disk,format=raw,if=virtio,cache=none" \
        <>"$T/$name.in" >"$T/$name.console" 2>"$T/$name.log" &
    GUEST_PIDS[$name]=$!
    later $!
}

# guest_end NAME: waits for it to power off; what it said is for guest_said
guest_end() {
    local name=$1 status=0
    wait "${GUEST_PIDS[$name]}" || status=$?
    [ "$status" -eq 0 ] || fail "QEMU of $name: status $status: $(cat "$T/$name.log")"
    GUEST_OUT=$(tr -d '\r' <"$T/$name.console")
    grep -q '^guest-end' <<<"$GUEST_OUT" || fail "the guest $name did not finish: $(tail -n 20 <<<"$GUEST_OUT")"
    ! grep '^error' <<<"$GUEST_OUT" >&2 || fail "the guest $name met an error"
}

# ---- several boot at once

start_guests() {
    local i
    for i in $(seq "$nguests"); do
        guest_start "guest-$i" "$T/mnt/clone-$i.img" "$GUEST_DIR/initrd" guest.mib=$mib \
            "guest.write=written-by-guest-$i" "guest.at=$((1000 + i / 2))" # two write the same block
    done
    for i in $(seq "$nguests"); do
        guest_end "guest-$i"
        assert_eq "sum that guest $i read" "$(guest_said sum)" "${sum%% *}"
        assert_eq "what guest $i reads back" "$(guest_said wrote)" "written-by-guest-$i"
    done
}

# verify_clones FOLDER: each holds the image with its own guest's block, and the image is as it was
verify_clones() {
    local i
    for i in $(seq "$nguests"); do
        cp "$T/golden" "$T/expect"
        printf 'written-by-guest-%s' "$i" |
            dd of="$T/expect" bs=4096 seek=$((1000 + i / 2)) conv=notrunc status=none
        assert_same "what clone $i holds" "$1/clone-$i.img" "$T/expect"
    done
    assert_same "the image that was cloned" "$1/golden.img" "$T/golden"
}

mkdir "$T/src"
random_file "$T/src/golden.img" ${mib}M
cp "$T/src/golden.img" "$T/golden"
sum=$(sha256sum <"$T/golden")
mount_vd "$T/src" "$T/mnt" --cache-size=128M
for i in $(seq "$nguests"); do
    vdisk clone "$T/mnt/golden.img" "$T/mnt/clone-$i.img"
done

reads_backing "$T/mnt" start_guests
assert_ge "bytes read from the backing by $nguests guests" "$BACKING_BYTES" $((mib << 20))
assert_lt "bytes read from the backing by $nguests guests" "$BACKING_BYTES" $(((mib << 20) * 105 / 100 + 1))
verify_clones "$T/mnt"
ok "$nguests guests read $mib MiB each, the backing gave $BACKING_BYTES bytes, and each has its own writes"

# ---- one writes and flushes while snapshots are taken

# flushed: the newest stamp that the guest has reported
flushed() {
    local last
    last=$(grep -ao 'stamp [0-9]\{8\}' "$T/stamper.console" | tail -n 1) || true
    last=${last#stamp }
    echo $((10#${last:-0}))
}

# newer STAMP: has the guest reported a later one? The end of the guest ends the wait for it.
newer() {
    alive "${GUEST_PIDS[stamper]}" || return 0
    [ "$(flushed)" -gt "$1" ]
}

# stamp_of FILE BLOCK: the stamp that a block is full of; 0 where it was never stamped
stamp_of() {
    local text
    text=$(dd if="$1" bs=4096 skip="$2" count=1 status=none | tr -d '\0')
    [ -n "$text" ] || { echo 0; return; }
    grep -qx '[0-9]\{4096\}' <<<"$text" || fail "block $2 of $1 is torn: ${text:0:40}...${text: -40}"
    echo "${text##+(0)}"
}

# verify_moment WHAT FILE LEAST MOST: all stamps up to one in [LEAST, MOST] and none after it
verify_moment() {
    local what=$1 file=$2 i top=0 wanted stamps=()
    for ((i = 0; i < blocks; i++)); do
        stamps[i]=$(stamp_of "$file" $((i * stride)))
        [ "${stamps[i]}" -le "$top" ] || top=${stamps[i]}
    done
    for ((i = 0; i < blocks; i++)); do
        wanted=$((top - (top - i + blocks) % blocks)) # the newest that is i modulo blocks
        [ "$wanted" -gt 0 ] || wanted=0
        assert_eq "$what: block $i, the newest stamp being $top (${stamps[*]})" "${stamps[i]}" "$wanted"
    done
    assert_ge "$what: newest stamp, against what was flushed before" "$top" "$3"
    assert_lt "$what: newest stamp, against what was written after" "$top" $(($4 + 1))
    tops+=("$top")
}

mkdir "$T/stamper"
cp "$(dirname "$0")/stamper" "$T/stamper/"
(cd "$T/stamper" && echo stamper | cpio -o -H newc --quiet) | gzip -1 | cat "$GUEST_DIR/initrd" - >"$T/stamper.initrd"
truncate -s 8M "$T/src/stamped.img"
vdisk clone "$T/mnt/stamped.img" "$T/mnt/live.img"
guest_start stamper "$T/mnt/live.img" "$T/stamper.initrd" rdinit=/stamper guest.blocks=$blocks guest.stride=$stride
wait_for "newer $((blocks * 2))" 90

least=() most=()
for ((s = 0; s < snapshots; s++)); do
    least[s]=$(flushed)
    vdisk snapshot "$T/mnt/live.img" "s$s" || fail "snapshot $s"
    most[s]=$(($(flushed) + 1)) # one is written before it is reported
    wait_for "newer $((most[s] + s % 3))" 60 # from moment to moment another part of the round
    alive "${GUEST_PIDS[stamper]}" || fail "the guest ended before it was told to: $(tail -n 20 "$T/stamper.console")"
done
echo end >"$T/stamper.in"
guest_end stamper
written=$(guest_said stamps)
assert_eq "stamps that the guest reported" "$(flushed)" "$written"
ok "a guest wrote and flushed $written times through $snapshots snapshots, without an error"

verify_snapshots() {
    tops=()
    for ((s = 0; s < snapshots; s++)); do
        [ -e "$T/mnt/then-$s.img" ] ||
            vdisk clone "$T/mnt/live.img" "$T/mnt/then-$s.img" --snapshot "s$s" || fail "clone of snapshot $s"
        verify_moment "snapshot $s" "$T/mnt/then-$s.img" "${least[s]}" "${most[s]}"
    done
    verify_moment "the disk itself" "$T/mnt/live.img" "$written" "$written"
}
verify_snapshots
before="${tops[*]}"
[ "$(tr ' ' '\n' <<<"$before" | sort -nu | wc -l)" -gt "$snapshots" ] || fail "snapshots of one moment: $before"
umount_vd "$T/mnt"
mount_vd "$T/src" "$T/mnt" --cache-size=128M
verify_snapshots
assert_eq "newest stamps after a remount" "${tops[*]}" "$before"
verify_clones "$T/mnt"
umount_vd "$T/mnt"
ok "each snapshot is one moment of it, after a remount too"
