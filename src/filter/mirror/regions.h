// SPDX-License-Identifier: Apache-2.0
/*
 * A set of regions of a disk: a bit for each, a bit for each word of bits. Regions have 64 KiB, or more where the disk is so
 * large that the bits would take too much memory. Whoever adds bytes adds the regions that they touch; whoever removes bytes
 * removes the regions that lie wholly in them. So a set may say too much, never too little.
 *
 * It never fails to grow: without memory, regions become larger.
 */
#ifndef VDISKFS_MIRROR_REGIONS_H
#define VDISKFS_MIRROR_REGIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REGION_BYTES (64u << 10)       /* the least */
#define REGIONS_MAX_BYTES (1ull << 52) /* of a disk: 4 PiB */

struct regions {
    uint64_t region_bytes; /* a power of two */
    uint64_t nbits;        /* a multiple of 64 * 64 */
    uint64_t *bits;
    uint64_t *summary; /* a bit for each word of bits that is not 0 */
    uint64_t count;    /* bits that are set */
};

/* An empty set for a disk of SIZE bytes, at most REGIONS_MAX_BYTES. 0, -ENOMEM. */
int regions_init(struct regions *s, uint64_t size_bytes) __attribute__((warn_unused_result));
void regions_free(struct regions *s);

/* Adds the regions that bytes OFFSET to END touch; END at most REGIONS_MAX_BYTES. */
void regions_add(struct regions *s, uint64_t offset, uint64_t end);
/* Adds all of FROM to TO. */
void regions_merge(struct regions *to, const struct regions *from);
/* Removes the regions that lie wholly in OFFSET to END, of a disk that ends at SIZE: the last one ends there. */
void regions_remove(struct regions *s, uint64_t offset, uint64_t end, uint64_t size);
void regions_clear(struct regions *s);

bool regions_touch(const struct regions *s, uint64_t offset, uint64_t end);
/* The first that is in the set at or behind FROM, and begins before LIMIT, with those that follow it closely, but not more than
 * MAX bytes (or one region). The end is not cut at LIMIT. */
bool regions_next(const struct regions *s, uint64_t from, uint64_t limit, uint64_t max,
                  uint64_t *ret_offset, uint64_t *ret_end);
/* Bytes in the set, of a disk of SIZE bytes. */
uint64_t regions_bytes(const struct regions *s, uint64_t size);

#endif
