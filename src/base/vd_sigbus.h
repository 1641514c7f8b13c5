// SPDX-License-Identifier: Apache-2.0
/*
 * A mapped file may be truncated, or its device fail, while we read it: the kernel then sends
 * SIGBUS. For each region registered here the handler puts a page of our own in place of the one
 * that failed, marks the region dead and returns, so that the reader goes on with that page and its
 * owner, which looks at the mark, stops using the file. Elsewhere SIGBUS kills, as it should.
 *
 * What the page holds: zeroes, or a page image given at registration (LMDB walks its pages; an
 * empty leaf ends the walk, a page of zeroes sends it out of bounds).
 */
#ifndef VD_SIGBUS_H
#define VD_SIGBUS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "vd_base.h"

struct vd_sigbus_region;

/* Installs the handler, the first time; registers [ADDR, ADDR + LEN). PAGE is NULL or a page image
 * of 4096 bytes, copied. 0, -ENOMEM, -ENOSPC when too many (1024) regions are registered. Any
 * thread. */
int vd_sigbus_add(const void *addr, size_t len, const void *page,
                  struct vd_sigbus_region **ret_region) VD_WARN_UNUSED;

/* Before the memory is unmapped. NULL is allowed. */
void vd_sigbus_del(struct vd_sigbus_region *r);

/* A fault happened in the region. Any thread, no lock. */
bool vd_sigbus_dead(const struct vd_sigbus_region *r);

#endif
