// SPDX-License-Identifier: Apache-2.0
/* CRC32C (Castagnoli), the checksum of blocks and records; ISA-L does the work. */
#ifndef VD_CRC_H
#define VD_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Continues CRC over BUF; begin with 0. vd_crc32c(vd_crc32c(0, a), b) is the CRC of a then b.
 * Any thread. RFC 3720 appendix B.4 has the vectors. */
uint32_t vd_crc32c(uint32_t crc, const void *buf, size_t len);

#endif
