// SPDX-License-Identifier: Apache-2.0
/* Sizes as people write them. */
#ifndef VD_SIZE_H
#define VD_SIZE_H

#include "vd_base.h"

/* Takes digits and at most one of K, M, G, T (either case, binary; a following B or iB is allowed).
 * 0, -EINVAL for anything else, -ERANGE past 2^63 - 1. */
int vd_size_parse(const char *text, uint64_t *ret_bytes) VD_WARN_UNUSED;

/* Prints as lsblk does: 512B, 64K, 1.5G. Always NUL-terminated. */
void vd_size_print(uint64_t bytes, char *ret_text, size_t len);

#endif
