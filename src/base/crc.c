// SPDX-License-Identifier: Apache-2.0
#include "vd_crc.h"

#include <isa-l/crc.h>
#include <limits.h>

uint32_t vd_crc32c(uint32_t crc, const void *buf, size_t len)
{
    const unsigned char *p = buf;
    crc = ~crc;
    while (len > 0) {
        int n = len > INT_MAX ? INT_MAX : (int)len;
        /* ISA-L takes a non-const pointer and does not write through it. */
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, n, crc);
        p += n;
        len -= (size_t)n;
    }
    return ~crc;
}
