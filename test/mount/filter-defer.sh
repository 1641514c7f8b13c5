#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Requests that filters hold, for an hour even, while the client is killed, filters come and go, the disk is asked for
# its state, the mount is stopped, and the daemon is killed. Each has one answer, and nobody waits for the hour.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/filter-lib.sh"
A=$MNT/a.img
B=$MNT/b.img

# held PATH NAME N: that filter holds N requests, and no more come
held() {
    wait_for "[ \"\$(filter_is '$1' $2 .deferred)\" = $3 ]" 10
}

# client NAME COMMAND...: in the background; CLIENTS[NAME] is its pid, its output is in $T/client-NAME
declare -A CLIENTS=()
client() {
    local name=$1
    shift
    "$@" >"$T/client-$name" 2>&1 5<&- &
    CLIENTS[$name]=$!
    later $!
}

# client_ends NAME STATUS: promptly, with that status; or other than 0, where STATUS is "fails"
client_ends() {
    local status=0
    wait_for "! alive ${CLIENTS[$1]}" 15
    wait "${CLIENTS[$1]}" 2>/dev/null || status=$?
    if [ "$2" = fails ]; then
        [ $status -ne 0 ] || fail "the client $1 ended well: $(cat "$T/client-$1")"
    else
        assert_eq "exit status of the client $1 ($(cat "$T/client-$1"))" $status "$2"
    fi
}

# rd NAME BLOCK [COUNT], wr NAME BLOCK: clients that make requests; a write's bytes are those of $T/new
rd() {
    client "$1" dd if="$A" of="$T/read-$1" bs=4k skip="$2" count="${3:-1}" iflag=direct status=none
}

wr() {
    client "$1" dd if="$T/new" of="$A" bs=4k skip="$2" seek="$2" count=1 oflag=direct conv=notrunc,nocreat status=none
}

# asks NAME read|write BLOCK: a client that makes one request and dies with 0 if that was answered well, without a close
asks() {
    # opened for writing: the kernel keeps no pages of it
    client "$1" python3 -c '
import os, sys
what, disk, new, block, out = sys.argv[1:]
fd = os.open(disk, os.O_RDWR)
at = int(block) * 4096
try:
    if what == "read":
        open(out, "wb").write(os.pread(fd, 4096, at))
    else:
        os.pwrite(fd, os.pread(os.open(new, os.O_RDONLY), 4096, at), at)
except OSError as e:
    print(e, flush=True)
    os._exit(1)
os._exit(0)' "$2" "$A" "$T/new" "$3" "$T/read-$1"
}

expect_read() {
    cmp "$T/read-$1" <(dd if="$2" bs=4k skip="$3" count="${4:-1}" status=none) || fail "what the client $1 has read"
}

nothing_lost() {
    ! grep -Eq 'never answered|held on to|were failed|error:' "$(vd_log "$MNT")" || fail "the log has errors"
}

random_file "$SRC/a.img" 4M 1
random_file "$SRC/b.img" 4M 2
random_file "$T/new" 4M 3
cp "$SRC/a.img" "$T/a"
cp "$SRC/b.img" "$T/b"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
exec 5<>"$A"

# ---- a client that is killed: its requests still have their answers, and it is gone then

attach "$A" delay read=1500ms write=1500ms
rd one 0
rd two 1
wr three 700
held "$A" delay 3
for name in one two three; do kill -9 "${CLIENTS[$name]}"; done
for name in one two three; do client_ends $name 137; done
detach "$A" delay
attach "$A" delay read=3600s write=3600s
rd one 0
wr two 701
held "$A" delay 2
kill -9 "${CLIENTS[one]}" "${CLIENTS[two]}"
detach "$A" delay # lets them go
client_ends one 137
client_ends two 137
for i in 700 701; do
    cmp <(dd if="$A" bs=4k skip=$i count=1 status=none) <(dd if="$T/new" bs=4k skip=$i count=1 status=none) ||
        fail "a write that its killed client had made"
    dd if="$T/new" of="$T/a" bs=4k skip=$i seek=$i count=1 conv=notrunc status=none
done
assert_same "the rest" "$A" "$T/a"
ok "clients that are killed while filters hold their requests"

# ---- filters come and go: what is held goes on at once, by the filters below

attach "$A" stats
attach "$A" delay all=3600s
attach "$A" throttle iops-total=1 iops-burst=1
client fio fio --name=fio --filename="$A" --size=256k --offset=0 --rw=write --bs=4k --direct=1 --ioengine=libaio --iodepth=16 \
    --allow_file_create=0 --buffer_pattern=0x5a --number_ios=16 --output="$T/fio.log"
held "$A" delay 16
rd one 20
held "$A" delay 17
assert_eq "other disks go on" "$(cmp "$B" "$T/b" && echo same)" same
status "a disk that is held can be asked" 0 vdisk --json explain "$A" 0
attach "$A" pass1 # the delay has let go, the throttle as well
client_ends one 0
client_ends fio 0
expect_read one "$T/a" 20
rd two 21
held "$A" delay 18
detach "$A" throttle
client_ends two 0
rd three 22
held "$A" delay 19
detach "$A" delay
client_ends three 0
detach "$A" pass1
assert_eq "requests that a filter which stayed has seen, and their ends" \
    "$(filter_is "$A" stats '"\(.requests) \([.status.ops[].requests] | add)"')" \
    "$(filter_is "$A" stats '"\(.requests) \(.requests)"')"
detach "$A" stats
printf '\x5a%.0s' $(seq 65536) | dd of="$T/a" conv=notrunc status=none
assert_same "what fio has written" "$A" "$T/a"
nothing_lost
ok "filters that come and go while requests are held"

# ---- a snapshot and a clone with requests held

attach "$A" delay write=3600s
wr one 300
held "$A" delay 1
timeout 20 "$VD_BUILD/vdisk" snapshot "$A" s1 || fail "a snapshot while a request is held"
vdisk clone "$A" "$MNT/c.img" --snapshot s1
assert_same "a snapshot from before the write" "$MNT/c.img" "$T/a"
alive "${CLIENTS[one]}" || fail "the snapshot let the request go"
detach "$A" delay
client_ends one 0
dd if="$T/new" of="$T/a" bs=4k skip=300 seek=300 count=1 conv=notrunc status=none
assert_same "after the write" "$A" "$T/a"
ok "a snapshot while a request is held"

# ---- a first write is held, and another mount asks for the disk: it is not the other's to change

attach "$A" delay write=3600s
exec 5<&-
wait_for "[ \"\$(vdisk --json owner '$SRC/a.img' | jq -r .state)\" = none ]" 10
OTHER=$T/other
mount_vd "$SRC" "$OTHER" --filter-dir="$FILTERS" --cache="$T/cache-other"
exec 5<>"$A"
asks one write 802
held "$A" delay 1
refused "attach by another mount" "$OTHER/a.img" "in use .*pid $(vd_pid "$MNT")" filter attach "$OTHER/a.img" stats
detach "$A" delay
client_ends one 0
umount_vd "$OTHER"
dd if="$T/new" of="$T/a" bs=4k skip=802 seek=802 count=1 conv=notrunc status=none
assert_same "after the write" "$A" "$T/a"
ok "a first write that is held while another mount wants the disk"

# ---- the mount is stopped with requests held

attach "$A" delay all=3600s
attach "$B" throttle iops-total=1 iops-burst=1
exec 6<>"$B"
asks one read 10
asks two write 800
client fio fio --name=fio --filename="$B" --size=128k --rw=randread --bs=4k --direct=1 --ioengine=libaio --iodepth=32 \
    --allow_file_create=0 --output="$T/fio.log"
held "$A" delay 2
held "$B" throttle 31
exec 5<&- 6<&- # or the close of each of our own commands would be a request
kill -TERM "$(vd_pid "$MNT")"
client_ends one 0
client_ends two 0
client_ends fio 0
await_vd "$MNT" 15
assert_eq "exit status of the daemon" "$VD_STATUS" 0
nothing_lost
expect_read one "$T/a" 10
dd if="$T/new" of="$T/a" bs=4k skip=800 seek=800 count=1 conv=notrunc status=none
status "check" 0 vdisk check "$SRC"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
detach "$B" throttle
assert_same "b" "$B" "$T/b"
ok "SIGTERM with requests held: each has its answer"

# the mount is out of sight, and the requests are held: by the source they are found
exec 5<>"$A"
asks one read 11
asks two write 801
held "$A" delay 2
umount -l "$MNT"
exec 5<&-
alive "$(vd_pid "$MNT")" || fail "the daemon ended under its clients"
detach "$SRC/a.img" delay
client_ends one 0
client_ends two 0
await_vd "$MNT" 15
assert_eq "exit status of the daemon" "$VD_STATUS" 0
nothing_lost
expect_read one "$T/a" 11
dd if="$T/new" of="$T/a" bs=4k skip=801 seek=801 count=1 conv=notrunc status=none
status "check" 0 vdisk check "$SRC"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
assert_same "a" "$A" "$T/a"
exec 5<>"$A"
ok "a lazy unmount with requests held"

# ---- the daemon is killed with requests held

attach "$A" delay all=3600s
client sync dd if="$T/new" of="$A" bs=4k seek=900 count=1 oflag=dsync conv=notrunc,nocreat status=none
held "$A" delay 1
rd one 30
held "$A" delay 2
kill_vd "$MNT"
client_ends one fails
client_ends sync fails
exec 5<&-
status "killed: check" 0 vdisk check "$SRC"
mount_vd "$SRC" "$MNT" --filter-dir="$FILTERS"
exec 5<>"$A"
assert_eq "the filter is there again" "$(filter_is "$A" delay .state)" active
rd one 30
held "$A" delay 1
detach "$A" delay
client_ends one 0
expect_read one "$T/a" 30
assert_same "what was held was never written" "$A" "$T/a"
exec 5<&-
umount_vd "$MNT"
nothing_lost
ok "a daemon that is killed with requests held, and mounted again"
