# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What every test in this folder sources:  . "$(dirname "$0")/lib.sh"
# Gives: the helpers of ../lib, an empty source $SRC, and a mountpoint $MNT for it, in the private folder $T.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../lib/common.sh"
. "$here/../lib/mount.sh"

SRC=$T/src
MNT=$T/mnt
mkdir "$SRC" "$MNT"
# a library to preload, for vd_env=("${with_fault[@]}" VD_FAULT=...)
with_fault=("LD_PRELOAD=$VD_BUILD/test/lib/libvd_fault.so" ASAN_OPTIONS=verify_asan_link_order=0)
