# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# A small guest: Debian's cloud kernel, busybox, and the script `init`, in QEMU without KVM (about 4 s a boot).
# Source ../lib/common.sh first. The kernel package is fetched and unpacked, never installed, once for a
# build folder: $VD_BUILD/guest holds vmlinuz and initrd.
#
#   guest_prepare                    makes them; skips the test where there is no kernel to be had
#   guest_boot DISK [KEY=VALUE...]   boots with DISK (raw) as /dev/vda and waits for the power-off. What the
#                                    guest said is in $GUEST_OUT, each line "name value"
#     mib=N      print sha256 of the first N MiB (as `sum`)
#     write=TEXT at=N   write TEXT at the start of block N, sync, read it back past the page cache (`wrote`)
#     root=1     mount the disk (ext4, read-only), check its /SUMS (`files`, how many), run its /hello
#   guest_said NAME                  one of these values

GUEST_DIR=$VD_BUILD/guest
GUEST_OUT=
GUEST_BOOTS=0

guest_kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ {print $2; exit}'
}

guest_fetch_kernel() {
    local into=$1
    # the lists may be missing, or name a version that is no longer served
    guest_download "$into" || { apt-get update -qq >&2 && guest_download "$into"; } || return 1
    dpkg -x "$into"/linux-image-*.deb "$into/package"
}

guest_download() {
    local into=$1 package
    package=$(guest_kernel_package)
    [ -n "$package" ] || return 1
    (cd "$into" && apt-get download -qq -o APT::Sandbox::User=root "$package" >&2)
}

# The modules in the order in which each finds what it needs.
GUEST_MODULES="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk"

guest_prepare() {
    local here work name file
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    mkdir -p "$GUEST_DIR"
    if [ ! -e "$GUEST_DIR/vmlinuz" ]; then
        work=$T/kernel
        mkdir "$work"
        guest_fetch_kernel "$work" || skip "no kernel package for a guest can be fetched"
        mkdir "$work/modules"
        for name in $GUEST_MODULES; do
            file=$(find "$work/package" -name "$name.ko*" -print -quit)
            [ -n "$file" ] || fail "the kernel package has no module $name"
            cp "$file" "$work/modules/"
        done
        find "$work/modules" -name '*.xz' -exec unxz {} +
        cp -r "$work/modules" "$GUEST_DIR/"
        # last, and in one step: its presence says that all is there
        cp "$work"/package/boot/vmlinuz-* "$GUEST_DIR/vmlinuz.new"
        mv "$GUEST_DIR/vmlinuz.new" "$GUEST_DIR/vmlinuz"
        rm -rf "$work"
    fi
    if [ ! -e "$GUEST_DIR/initrd" ] || [ "$here/init" -nt "$GUEST_DIR/initrd" ] ||
        [ "$here/lib.sh" -nt "$GUEST_DIR/initrd" ]; then
        work=$T/initrd
        mkdir -p "$work"/{bin,dev,proc,sys,root}
        cp "$(command -v busybox)" "$work/bin/busybox"
        cp "$here/init" "$work/init"
        chmod 755 "$work/init"
        for name in $GUEST_MODULES; do
            cp "$GUEST_DIR/modules/$name.ko" "$work/"
        done
        echo "$GUEST_MODULES" >"$work/modules"
        (cd "$work" && find . | cpio -o -H newc --quiet) | gzip -1 >"$GUEST_DIR/initrd.new"
        mv "$GUEST_DIR/initrd.new" "$GUEST_DIR/initrd"
        rm -rf "$work"
    fi
}

guest_boot() {
    local disk=$1 args=() pair console
    shift
    for pair in "$@"; do
        args+=("guest.$pair")
    done
    GUEST_BOOTS=$((GUEST_BOOTS + 1))
    console=$T/guest-$GUEST_BOOTS.log
    timeout 180 qemu-system-x86_64 -nodefaults -no-user-config -machine pc -accel tcg -m 192 -smp 1 \
        -display none -no-reboot -serial "file:$console" \
        -kernel "$GUEST_DIR/vmlinuz" -initrd "$GUEST_DIR/initrd" \
        -append "console=ttyS0 quiet panic=-1 no_timer_check ${args[*]}" \
        -drive "file=$disk,format=raw,if=virtio,cache=none" </dev/null >"$T/qemu-$GUEST_BOOTS.log" 2>&1 ||
        fail "QEMU with $disk: status $?: $(cat "$T/qemu-$GUEST_BOOTS.log")"
    GUEST_OUT=$(tr -d '\r' <"$console" | sed -n '/^guest-begin$/,/^guest-end$/p' | sed '1d;$d')
    grep -q '^guest-end' "$console" || fail "the guest on $disk did not finish"
    ! grep '^error' <<<"$GUEST_OUT" >&2 || fail "the guest on $disk met an error"
}

guest_said() {
    awk -v name="$1" '$1 == name {$1 = ""; print substr($0, 2); exit}' <<<"$GUEST_OUT"
}
