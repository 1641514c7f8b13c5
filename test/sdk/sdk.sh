#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs/filters.md tells how to write a filter: its source and its commands are run here exactly as printed, first against the
# build tree, then against an installation, and what they print is what the page shows.
#
# The page names /srv/disks and /mnt/disks, and an installation is below the prefix. So the test runs in a mount namespace of its
# own, where its own folders stand there.
[ -n "${VD_SDK_NS:-}" ] || exec env VD_SDK_NS=1 unshare --mount "$0" "$@"
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/mount.sh"
: "${VD_PREFIX:?}" "${VD_FILTER_DIR:?}" "${VD_INCLUDE_DIR:?}" "${VD_LIB_DIR:?}" "${VD_MAN_DIR:?}"
unset -f vdisk # commands are found by PATH
PAGE=$VD_SOURCE/docs/filters.md
MNT=/mnt/disks
umask 022

# Blocks of the section, without their indentation.
awk '/^## /{on = $0 == "## Writing a filter"} on && (/^    / || /^$/)' "$PAGE" | sed 's/^    //' >"$T/section"
sed -n '/^#include/,/^VD_FILTER_EXPORT/p' "$T/section" >"$T/large-reads.c"
grep -q '^VD_FILTER_EXPORT(ops);$' "$T/large-reads.c" || fail "no filter in $PAGE"
assert_lt "non-empty lines of the filter" "$(grep -c . "$T/large-reads.c")" 45

# commands FROM TO: of the section, the commands (with what they print) from the first that begins with FROM up to the one that
# begins with TO, which is left out
commands() {
    awk -v from="\$ $1" -v to="\$ $2" 'index($0, from) == 1 {on = 1} index($0, to) == 1 {exit} on && NF' "$T/section"
}

# as_printed: runs the commands of its input, and compares what each prints with what follows it. One that ends with & is the mount.
as_printed() {
    local line command='' wanted=''
    while IFS= read -r line; do
        if [ "${line#\$ }" != "$line" ]; then
            run_printed "$command" "$wanted"
            command=${line#\$ } wanted=
        else
            wanted+=$line$'\n'
        fi
    done
    run_printed "$command" "$wanted"
}
run_printed() {
    local command=$1 wanted=$2
    [ -n "$command" ] || return 0
    if [ "${command%&}" != "$command" ]; then
        eval "$command"
        DAEMON=$!
        later $DAEMON
        wait_for "mounted $MNT || ! alive $DAEMON" 60
        mounted $MNT || fail "did not mount: $command"
        return 0
    fi
    # a command that the page lets fail is known by its message
    eval "$command" >"$T/printed" 2>&1 || [ "${wanted#vdisk: }" != "$wanted" ] || fail "$command: $(cat "$T/printed")"
    diff -u <(printf %s "$wanted") "$T/printed" >&2 || fail "$command: prints something else"
}

for dir in /srv /mnt /var/cache; do
    mount -t tmpfs -o mode=755 private "$dir"
done
mkdir /srv/disks /mnt/disks "$T/work"
truncate -s 4M /srv/disks/web.img
cp "$T/large-reads.c" "$T/work"
cd "$T/work" || exit

# ---- from the build tree
export PKG_CONFIG_PATH=$VD_BUILD/meson-uninstalled PATH=$VD_BUILD:$PATH
assert_eq "filterdir" "$(pkg-config --variable=filterdir vdiskfs-filter)" "$VD_BUILD/filters"
as_printed < <(commands cc vdiskfs)
ok "built by the build tree's flags"
as_printed < <(commands vdiskfs install)
wait_for "! alive $DAEMON" 30
ok "the filter does what the page says"

# the fragment about deferring compiles, too
{
    sed -n '/^#include/p' large-reads.c
    echo 'struct self { struct vd_filter_disk *disk; };'
    echo 'void hand_over(struct self *s, uint64_t token);'
    awk '/\*\*Deferring/{on = 1} on && /^    /{seen = 1; print} on && seen && /^[^ ]/{exit}' "$PAGE"
    echo 'int use(struct self *s, struct vd_filter_request *rq) { go_on(s, 1); return submit(s, rq); }'
} >"$T/deferring.c"
# shellcheck disable=SC2046
cc $(pkg-config --cflags vdiskfs-filter) -Wall -Werror -fsyntax-only "$T/deferring.c" || fail "the example of deferring"
grep -q VD_FILTER_DEFER "$T/deferring.c" || fail "no example of deferring"
# the header needs no other before it
echo '#include <vdiskfs/filter.h>' >"$T/header.c"
# shellcheck disable=SC2046
cc $(pkg-config --cflags vdiskfs-filter) -Wall -Wextra -Werror -pedantic -std=c11 -fsyntax-only "$T/header.c" ||
    fail "the header alone"
ok "the example of deferring, the header alone"

# ---- an installation
[ "$VD_PREFIX" != /usr ] || skip "the prefix is /usr"
DESTDIR=$T/inst meson install -C "$VD_BUILD" --no-rebuild --quiet || fail "meson install"
for file in bin/vdiskfs bin/vdisk "$VD_INCLUDE_DIR/vdiskfs/filter.h" "$VD_LIB_DIR/pkgconfig/vdiskfs-filter.pc"; do
    [ -f "$T/inst$VD_PREFIX/$file" ] || fail "not installed: $file"
done
for page in man1/vdisk.1 man8/vdiskfs.8; do
    [ -s "$T/inst$VD_PREFIX/$VD_MAN_DIR/$page" ] || fail "not installed: $page"
done
n=0
for so in "$T/inst$VD_PREFIX/$VD_FILTER_DIR"/*.so; do
    name=$(basename "$so" .so) n=$((n + 1))
    [ -s "$T/inst$VD_PREFIX/$VD_MAN_DIR/man7/vdiskfs-filter-$name.7" ] || fail "no manual page of filter $name"
    grep -q "(../src/filter/$name/vdiskfs-filter-$name.7.scd)" "$PAGE" || fail "filter $name is not in docs/filters.md"
done
assert_ge "filters installed" "$n" 6
ok "installed: programs, header, pkg-config file, $n filters with their pages"

mkdir -p "$VD_PREFIX"
mount --bind "$T/inst$VD_PREFIX" "$VD_PREFIX"
export PKG_CONFIG_PATH=$VD_PREFIX/$VD_LIB_DIR/pkgconfig PATH=$VD_PREFIX/bin:/usr/sbin:/usr/bin:/sbin:/bin
rm -rf large-reads.so log
as_printed < <(commands cc vdiskfs)
as_printed < <(commands install nothing)
[ -f "$VD_PREFIX/$VD_FILTER_DIR/large-reads.so" ] || fail "not where installed filters are"
vdisk filter ls >"$T/list"
grep -q '^large-reads inspection ' "$T/list" || fail "not listed: $(cat "$T/list")"
# shellcheck disable=SC2016 # as the page writes it
commands vdiskfs install | sed 's/ --filter-dir="$PWD"//' >"$T/commands"
as_printed <"$T/commands"
wait_for "! alive $DAEMON" 30
ok "installed, it needs no --filter-dir"
