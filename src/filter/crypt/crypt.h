// SPDX-License-Identifier: Apache-2.0
/* What the files of crypt share. */
#ifndef VDISKFS_CRYPT_H
#define VDISKFS_CRYPT_H

#include <stdatomic.h>
#include <vdiskfs/filter.h>

#include "range.h"
#include "xts.h"

struct crypt {
    struct vd_filter_disk *disk;
    struct xts *xts;
    uint64_t sector;
    bool from_command;
    bool must_be_empty; /* when it is first attached */
    struct range_lock ranges; /* all requests but flushes, by whole sectors; reads shared */
    atomic_bool said;         /* that libcrypto fails, or that a sector was torn */
    _Atomic uint64_t unaligned_reads, unaligned_writes, errors;
};

/* What cannot be: counted, logged once. Returns R. */
int crypt_fault(struct crypt *c, int r, const char *what);

static inline uint64_t crypt_down(const struct crypt *c, uint64_t offset)
{
    return offset & ~(c->sector - 1);
}
static inline uint64_t crypt_up(const struct crypt *c, uint64_t offset)
{
    return crypt_down(c, offset + c->sector - 1);
}

/*
 * Does RQ, which is not of whole sectors and whose sectors are held by this thread, which may wait: VD_FILTER_COMPLETE or
 * -errno (unaligned.c).
 */
int crypt_unaligned(struct crypt *c, struct vd_filter_request *rq);

/* Does the disk hold zeroes only? 1, 0, -errno (empty.c). Reads all that is no hole; waits. */
int crypt_disk_is_empty(struct vd_filter_disk *disk);

#endif
