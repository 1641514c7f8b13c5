// SPDX-License-Identifier: Apache-2.0
/* 128-bit random names: disk IDs, disk UUIDs, owner IDs, witness tokens, boot IDs. */
#ifndef VD_ID_H
#define VD_ID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "vd_base.h"

#define VD_ID_HEX 33 /* 32 lower-case digits and a NUL */

struct vd_id {
    uint8_t b[16];
};

/* Draws a random ID, never all zero. 0, or -errno of getrandom(2). Any thread. */
int vd_id_new(struct vd_id *ret_id) VD_WARN_UNUSED;

/* Writes 32 hex digits and a NUL. */
void vd_id_hex(const struct vd_id *id, char ret_hex[VD_ID_HEX]);

/* Takes 32 hex digits, dashes between them ignored (a UUID as the kernel prints it). 0 or -EINVAL.
 */
int vd_id_parse(const char *hex, struct vd_id *ret_id) VD_WARN_UNUSED;

/* This boot of the machine (/proc/sys/kernel/random/boot_id). In test builds the variable
 * VDISKFS_TEST_BOOT_ID stands in for it. 0, -errno of the read, -EINVAL. */
int vd_boot_id(struct vd_id *ret_id) VD_WARN_UNUSED;

static inline bool vd_id_eq(const struct vd_id *a, const struct vd_id *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

static inline bool vd_id_is_zero(const struct vd_id *id)
{
    static const struct vd_id zero;
    return vd_id_eq(id, &zero);
}

#endif
