// SPDX-License-Identifier: Apache-2.0
/*
 * AES-256-XTS of whole sectors (IEEE 1619), as dm-crypt's aes-xts-plain64 writes them: each sector is a
 * data unit, whose tweak is its place on the disk in units of 512 bytes, little-endian, whatever the sector's
 * size.
 *
 * A sector of zero bytes only is a *hole*: it decrypts to zeroes. So what was never written, discarded or
 * zeroed reads as on a plain disk. Encryption makes such a sector with probability 2^-4096 or less.
 */
#ifndef VDISKFS_CRYPT_XTS_H
#define VDISKFS_CRYPT_XTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XTS_KEY_BYTES 64u
#define XTS_UNIT 512u /* what the tweak counts */

struct xts;

/* SECTOR: 512 or 4096 bytes. The halves of KEY must differ; it is not kept but in libcrypto's form, which is wiped when it is
 * freed. 0; -EINVAL; -ENOMEM; -EIO: libcrypto refuses. */
int xts_new(const uint8_t key[XTS_KEY_BYTES], uint32_t sector, struct xts **ret_x)
    __attribute__((warn_unused_result));
/* NULL is allowed. */
void xts_free(struct xts *x);
uint32_t xts_sector(const struct xts *x);

/*
 * LEN bytes that begin at byte OFFSET of the disk, from IN to OUT, or in place. OFFSET and LEN must be multiples of the
 * sector: else -EINVAL, and nothing is done. -ENOMEM, -EIO: libcrypto fails; OUT is then undefined. Any thread; do not wait.
 */
int xts_encrypt(struct xts *x, uint64_t offset, const void *in, void *out, size_t len)
    __attribute__((warn_unused_result));
int xts_decrypt(struct xts *x, uint64_t offset, void *data, size_t len)
    __attribute__((warn_unused_result));

/* Are all bytes zero? */
bool xts_is_hole(const void *data, size_t len);

#endif
